"""Captures, above a stand-in for CUDA."""

import contextlib

import pytest
import torch

from deepmd_gnn.kernels.triton import captures


@pytest.fixture
def cuda(monkeypatch):
    """What was called."""
    calls = []

    class Stream:
        def wait_stream(self, other):
            calls.append(("wait", self, other))

    @contextlib.contextmanager
    def graph(captured, **options):
        calls.append(("capture", options))
        yield

    current = Stream()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: calls.append(("set", stream)))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return calls, current


def test_what_is_captured_is_returned(cuda):
    calls, _ = cuda
    _, results = captures.record(lambda: "results", captures.new_pool())
    assert results == "results"
    assert calls == [("capture", {"pool": "pool", "capture_error_mode": "thread_local"})]


def test_the_stream_is_restored_where_a_capture_fails(cuda):
    calls, current = cuda

    def fails():
        raise RuntimeError("not in a capture")

    with pytest.raises(RuntimeError, match="not in a capture"):
        captures.record(fails)
    assert calls[-1] == ("set", current)


def test_both_streams_wait(cuda):
    calls, current = cuda
    assert captures.aside(lambda: 3) == 3
    assert [call[2] is current for call in calls] == [True, False]
    assert calls[1][1] is current


def test_captures_belong_to_the_current_device(cuda):
    class Elsewhere:
        device = torch.device("cuda", 1)

    assert captures.on_current_device(torch.zeros(1))
    assert not captures.on_current_device(Elsewhere())
