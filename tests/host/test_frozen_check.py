"""A ``.pt2`` that cannot be opened, or gives other numbers than the model, is not left under its name."""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import tiny_model

from deepmd_gnn.host import freezing, frozen_check
from deepmd_gnn.host.freezing import evaluated_by, whole_exports
from deepmd_gnn.host.frozen_check import ONE_RANK

KEYS = ["atom_energy", "energy", "force", "virial", "atom_virial"]
CRASHES = "#include <csignal>\n__attribute__((constructor)) static void crash() { std::raise(SIGSEGV); }\n"


@pytest.fixture(autouse=True)
def _opened(monkeypatch):
    monkeypatch.setattr(freezing, "check_file", frozen_check.check_file)


def archive(path, library):
    """A ``.pt2`` with some file in place of the compiled model."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {
            "archive_format": b"pt2",
            "archive_version": b"0",
            "byteorder": b"little",
            ".data/version": b"3\n",
            "data/aotinductor/model/m.wrapper.cpp": b"",
            "data/aotinductor/model/m.wrapper.so": library,
            "data/aotinductor/model/m.wrapper_metadata.json": b'{"AOTI_DEVICE_KEY": "cpu"}',
        }.items():
            file.writestr(f"mace/{name}", content)
        file.writestr("model/extra/metadata.json", json.dumps({"output_keys": KEYS}))


def freeze(path, library):
    """Freeze a model through a host that writes this."""
    write = whole_exports(lambda file, *_: archive(file, library))
    with evaluated_by("networks"):
        write(str(path), {"model": tiny_model().serialize()})


def crashing_library(folder):
    (folder / "crash.cpp").write_text(CRASHES)
    subprocess.run(["g++", "-shared", "-fPIC", "crash.cpp", "-o", "crash.so"], cwd=folder, check=True)
    return (folder / "crash.so").read_bytes()


@pytest.mark.parametrize("kind", ["crash", "damaged"])
def test_file_that_cannot_be_opened(kind, tmp_path):
    target = tmp_path / "model.pt2"
    target.write_text("of before")
    library, reason = (
        (crashing_library(tmp_path), r"\(signal SIGSEGV\)")
        if kind == "crash"
        else (b"no library", r"\(.*(ELF|header|short).*\)")
    )
    with pytest.raises(RuntimeError, match=f"program for one rank cannot be opened and evaluated {reason}"):
        freeze(target, library)
    assert target.read_text() == "of before"


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(("change", "right"), [(0.0, True), (1e-3, False), (torch.nan, False)])
def test_numbers_are_compared(change, right, precision, monkeypatch):
    """With the numbers of the model it is content, with others not."""
    model = tiny_model(precision=precision)
    seen = []

    def answer(file, inputs, device):
        seen.append((inputs, device))
        names = ("energy", "energy_redu", "energy_derv_r", "energy_derv_c_redu", "energy_derv_c")
        found = model.forward_common_lower_graph(*inputs, do_atomic_virial=True)
        results = dict(zip(KEYS, (found[name] for name in names), strict=True))
        results["force"] = results["force"].squeeze(1) + change
        return {ONE_RANK: results}

    monkeypatch.setattr(frozen_check, "evaluated", answer)
    if right:
        frozen_check.check_file(Path("m.pt2"), model.serialize())
    else:
        with pytest.raises(RuntimeError, match="program for one rank gives other numbers than the model"):
            frozen_check.check_file(Path("m.pt2"), model.serialize())
    assert seen[0][1] == "cpu"


def test_model_without_finite_energies(monkeypatch, caplog):
    """The user's training has lost it; that is not the file's fault."""
    model = tiny_model()
    model.out_bias.fill_(torch.nan)
    monkeypatch.setattr(frozen_check, "evaluated", None)
    frozen_check.check_file(Path("m.pt2"), model.serialize())
    assert "are not finite" in caplog.text


@pytest.mark.parametrize("taken", [True, False])
def test_a_kept_program_that_does_not_fit_is_made_anew(taken, tmp_path, monkeypatch, caplog):
    kept, file = tmp_path / "kept", tmp_path / "m.pt2"
    compiled, checks = [], iter([RuntimeError("other numbers"), None])
    kept.write_text("program")

    def compile_to(path, used):
        path.write_text("file")
        compiled.append(kept.exists())
        used.extend([kept] if taken and kept.exists() else [])

    def check(path, data):
        if error := next(checks):
            raise error

    monkeypatch.setattr(freezing, "check_file", check)
    if not taken:
        with pytest.raises(RuntimeError, match="other numbers"):
            freezing._compiled_and_checked(file, {}, compile_to)
        return
    freezing._compiled_and_checked(file, {}, compile_to)
    assert compiled == [True, False]
    assert file.read_text() == "file"
    assert "made anew (other numbers)" in caplog.text
