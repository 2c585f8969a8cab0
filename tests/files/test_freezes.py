"""What goes along with a freeze: stages in the log, and TorchInductor mended meanwhile."""

import gc
import logging
import re
import time
from types import SimpleNamespace

import pytest
import torch
import torch._inductor.config as inductor_config
from torch._inductor.codegen.cpp import TilingSelect
from torch.fx.experimental.proxy_tensor import make_fx

from deepmd_gnn.files import progress
from deepmd_gnn.files.progress import Progress, enter_stage
from deepmd_gnn.files.torch_fixes import (
    PLAIN_TAILS,
    PLAIN_TRACING,
    plain_nodes,
    rare_garbage_collection,
    sound_vectorisation,
)
from deepmd_gnn.graph.compilation import compiling


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="deepmd.deepmd_gnn")
    return lambda: [re.sub(r"\d+ s", "N s", record.getMessage()) for record in caplog.records]


def test_stages_are_told_with_their_time(log):
    enter_stage("nobody asks")
    with Progress("m.pt2") as told, compiling(progress=told):
        enter_stage("tracing")
        enter_stage("compiling")
    assert log() == [
        "m.pt2: tracing ...",
        "m.pt2: tracing took N s",
        "m.pt2: compiling ...",
        "m.pt2: compiling took N s",
        "m.pt2: done after N s",
    ]
    assert not told._thread.is_alive()


def test_a_freeze_that_stops_says_so(log):
    def stop():
        with Progress("m.pt2") as told:
            told.enter("tracing")
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        stop()
    assert log()[-1] == "m.pt2: stopped, nothing written after N s"


def test_long_stages_give_signs_of_life(log, monkeypatch):
    monkeypatch.setattr(progress, "HEARTBEAT", 0.01)
    with Progress("m.pt2") as told:
        time.sleep(0.03)
        assert log() == []  # no stage, nothing to tell
        told.enter("compiling")
        end = time.monotonic() + 10.0
        while "m.pt2: still compiling, N s" not in log() and time.monotonic() < end:
            time.sleep(0.01)
    assert "m.pt2: still compiling, N s" in log()


def test_sums_are_vectorised_over_their_terms(monkeypatch):
    """Only where TorchInductor would vectorise an outer loop of a sum that is not the next one to it."""
    chosen = SimpleNamespace(value=None)
    original = lambda self, functions, sizes: chosen.value  # noqa: E731
    monkeypatch.setattr(TilingSelect, "select_tiling", original)
    sums, plain = [((10, 20), (30,)), ((10,), ())], [((10, 20, 30), ())]

    def selected(value, sizes):
        chosen.value = value
        return TilingSelect.select_tiling(None, [], sizes)

    with sound_vectorisation():
        assert selected(([8], [0]), sums) == ([8], [2])
        assert selected(([8, 8], [0, 1]), sums) == ([8], [2])
        assert selected(([8], [1]), sums) == ([8], [1])  # the loop next to the terms
        assert selected(([8], [2]), sums) == ([8], [2])
        assert selected(([8], [0]), plain) == ([8], [0])
        assert selected(([], []), sums) == ([], [])
    assert TilingSelect.select_tiling is original
    with pytest.raises(ValueError, match="bad"), sound_vectorisation():
        raise ValueError("bad")
    assert TilingSelect.select_tiling is original


def test_nodes_do_not_say_where_they_come_from():
    """Only inside: torch writes it down for whoever reads a graph."""

    class Twice(torch.nn.Module):
        def forward(self, value):
            return value * 2

    def traces():
        graph = make_fx(Twice(), record_stack_traces=True)(torch.ones(3)).graph
        return [node.stack_trace for node in graph.nodes if node.op == "call_function"]

    with plain_nodes():
        assert traces() == [None]
    assert "value * 2" in traces()[0]


def test_garbage_is_collected_as_before():
    ours, before = gc.get_threshold(), (700, 10, 10)
    gc.set_threshold(*before)
    try:
        with rare_garbage_collection():
            assert gc.get_threshold()[0] > before[0]
        assert gc.get_threshold() == before
        with pytest.raises(ValueError, match="bad"), rare_garbage_collection():
            raise ValueError("bad")
        assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*ours)


def test_settings_are_those_of_this_torch():
    """torch would take others without a word."""
    import torch._dynamo.config as dynamo_config

    for config, settings in ((inductor_config, PLAIN_TAILS), (dynamo_config, PLAIN_TRACING)):
        for name, value in settings.items():
            with config.patch({name: not value}):
                assert config.get_config_copy()[name] is not value
            with config.patch(settings):
                assert config.get_config_copy()[name] is value
