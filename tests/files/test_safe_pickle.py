"""Reading a file never executes what it asks for."""

import collections
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from deepmd_gnn.files.safe_pickle import FileError, Record, TorchFile


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def save(path, content):
    torch.save(content, path)
    return path


ATTACKS = {
    "shell": lambda marker: Call(os.system, f"touch {marker}"),
    "eval": lambda marker: Call(eval, f"open({str(marker)!r}, 'w')"),
    "exec": lambda marker: Call(exec, f"open({str(marker)!r}, 'w')"),
    "method": lambda marker: Call(Path.touch, marker),
    "inside a dict": lambda marker: {"model": {"x": Call(os.mkdir, str(marker))}},
    "torch's loader of bytes": lambda marker: Call(
        torch.storage._load_from_bytes, pickle.dumps(Call(os.mkdir, str(marker)))
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_do_nothing(name, tmp_path):
    marker = tmp_path / "executed"
    path = save(tmp_path / "x.model", ATTACKS[name](marker))
    TorchFile(path)
    assert not marker.exists()


def test_the_attacks_would_work(tmp_path):
    """Torch's own unpickler executes them, so the test above can fail."""
    marker = tmp_path / "executed"
    path = save(tmp_path / "x.model", ATTACKS["shell"](marker))
    torch.load(path, weights_only=False)
    assert marker.exists()


def raw(path, stream):
    """An archive with a hand-written pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", stream)
        archive.writestr("x/version", "3")
    return path


@pytest.mark.parametrize(
    "name", [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nSize\n"]
)
@pytest.mark.parametrize("state", [b"}X\x01\x00\x00\x00aK\x01s", b"N}X\x01\x00\x00\x00aK\x01s\x86"])
def test_builders_cannot_be_changed(name, state, tmp_path):
    """BUILD on a function would change it for the whole process."""
    with pytest.raises(FileError, match="tries to change a function"):
        TorchFile(raw(tmp_path / "x.model", b"\x80\x02" + name + state + b"b."))
    assert not hasattr(collections.OrderedDict, "a")


def test_tensors_stay_inside_their_storage(tmp_path):
    path = tmp_path / "x.model"
    torch.save(torch.arange(3.0), path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    stream = next(name for name in files if name.endswith("data.pkl"))
    assert files[stream].count(b"K\x03") == 2  # the storage's and the tensor's size
    position = files[stream].rindex(b"K\x03")
    files[stream] = files[stream][:position] + b"K\x63" + files[stream][position + 2 :]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(FileError, match="x.model"):
        TorchFile(path)


def test_tensors_and_plain_values_are_read(tmp_path):
    content = {
        "float": torch.arange(6, dtype=torch.float64).reshape(2, 3).t(),
        "int": torch.tensor([3, 1]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.empty(0),
        "values": [1, 2.5, "x", None, True, (1, 2), torch.Size([2, 1])],
    }
    read = TorchFile(save(tmp_path / "x.pt", content)).content
    for key in ("float", "int", "parameter", "empty"):
        torch.testing.assert_close(read[key], content[key].detach(), rtol=0, atol=0)
    assert read["values"] == content["values"]


def test_other_classes_become_records(tmp_path):
    module = torch.nn.Linear(2, 1)
    record = TorchFile(save(tmp_path / "x.pt", module)).content
    assert isinstance(record, Record)
    assert record.qualname == "torch.nn.modules.linear.Linear"
    torch.testing.assert_close(record.state["_parameters"]["weight"], module.weight.detach())


@pytest.mark.parametrize("content", [b"", b"not a zip archive", b"PK\x03\x04truncated"])
def test_damaged_files_are_named(content, tmp_path):
    path = tmp_path / "broken.model"
    path.write_bytes(content)
    with pytest.raises(FileError, match="broken.model"):
        TorchFile(path)


def test_truncated_archive(tmp_path):
    path = save(tmp_path / "x.model", torch.nn.Linear(20, 20))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FileError, match="x.model"):
        TorchFile(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        TorchFile(tmp_path / "missing.model")


# Tuples in tuples, each twice the one before: 2^60 empty ones.
SHARED = b")" + b"2\x86" * 60
BOMBS = {
    "keys of shared tuples": b"\x80\x02}" + SHARED + b"K\x01s.",
    "several keys": b"\x80\x02}(" + SHARED + b"K\x01u.",
    "dictionary of protocol 0": b"(" + SHARED + b"K\x01d.",
    "ordered": b"ccollections\nOrderedDict\n](" + SHARED + b"K\x01\x86e\x85R.",
    "set": b"\x80\x04\x8f(" + SHARED + b"\x90.",
    "frozen set": b"\x80\x04(" + SHARED + b"\x91.",
    "numbers to remember": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "byte array": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
    "reference": b"\x80\x02" + SHARED + b"Q.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickles_that_ask_for_time_or_memory(name, tmp_path):
    """In a process with little of both; some are harmless data, but none may take long."""
    path = raw(tmp_path / "x.model", BOMBS[name])
    code = (
        "import resource, sys\nfrom deepmd_gnn.files.safe_pickle import FileError, TorchFile\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, -1))\n"
        "try:\n    TorchFile(sys.argv[1])\nexcept FileError as error:\n    print(str(error)[:500])\n"
        "print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.stdout.endswith("done\n"), done.stderr[-500:]
    assert ("x.model: cannot be read" in done.stdout) == (name != "numbers to remember"), done.stdout


@pytest.mark.parametrize("size", [(10**6, 10**6), (5000,)])
def test_tensors_larger_than_what_is_stored(size, tmp_path):
    """A stride of 0 makes any number of numbers from one."""
    path = save(tmp_path / "x.pt", torch.zeros(1).expand(*size))
    with pytest.raises(FileError, match="larger than what is stored"):
        TorchFile(path)


def test_tensors_that_share_a_storage(tmp_path):
    values = torch.arange(20.0)
    read = TorchFile(save(tmp_path / "x.pt", [values[:10], values[10:], values.expand(3, 20)])).content
    assert read[1][0] == 10
    assert read[2].shape == (3, 20)
    many = [torch.as_strided(torch.zeros(2**16), (2**16,), (1,))]
    many += [many[0].view(2**8, 2**8)[:] for _ in range(600)]
    with pytest.raises(FileError, match="larger than what is stored"):
        TorchFile(save(tmp_path / "y.pt", many))
