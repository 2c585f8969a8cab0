"""Files of older versions give the numbers they gave; those of newer ones, and wrong packages, give a message."""

import gzip
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import base_input, run_dp
from helpers import assert_close, tiny_model
from tolerances import NATIVE
from training_data import composition_frames, write_system

from deepmd_gnn import __version__
from deepmd_gnn.cli import main
from deepmd_gnn.config.versions import check_versions, newer_writer, package_versions
from deepmd_gnn.files.summary import summarise
from deepmd_gnn.mace import MaceModel

# Files of before are evaluated as users evaluate them.
pytestmark = pytest.mark.optimised
LADDER = sorted((Path(__file__).parents[1] / "data" / "versions").glob("[0-9]*"))
FILES = [file for folder in LADDER for file in sorted(folder.glob("model.*"))]


def unpacked(file, folder):
    """A stored file, decompressed if it is large."""
    if file.suffix != ".gz":
        return file
    (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return folder / file.stem


KEYS = ("energy", "force", "virial", "atom_energy", "atom_virial")


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_older_files_give_the_numbers_they_gave(file, tmp_path):
    reference = np.load(file.parent / "reference.npz")
    version, file = file.parent.name, unpacked(file, tmp_path)
    coord, types, cell = (reference[key] for key in ("coord", "types", "cell"))
    found = DeepPot(str(file)).eval(coord[None], cell[None], types, atomic=True)
    for key, value in zip(KEYS, found, strict=True):
        assert_close(np.ravel(value), reference[key].ravel(), NATIVE["float64"], key)
    summary = summarise(file)
    assert summary["versions"]["deepmd-gnn"] == version
    assert len(summary["models"][0]["architecture"]) > 10


def test_this_version_is_on_the_ladder():
    assert __version__ in {folder.name for folder in LADDER}
    assert {file.name for file in FILES} == {"model.pt", "model.pth", "model.pte.gz"}
    assert all(file.stat().st_size < 400_000 for file in FILES)


@pytest.mark.slow
@pytest.mark.parametrize("folder", LADDER, ids=lambda folder: folder.name)
def test_older_checkpoints_are_frozen_and_trained_on(folder, tmp_path):
    shutil.copy(folder / "model.pt", tmp_path / "model.pt")
    run_dp(tmp_path, "freeze", None, "-c", "model.pt", "-o", "frozen.pth")
    assert summarise(tmp_path / "frozen.pth")["versions"]["deepmd-gnn"] == __version__
    system = write_system(tmp_path / "data", composition_frames(6, 2, 0, box_length=4.5))
    config = base_input([system], None, steps=1)
    config["model"].update(num_channels=2, pair_repulsion=True)
    run_dp(tmp_path, "train", config, "--init-model", "model.pt")
    # What trains here is recorded here, with the packages.
    assert summarise(tmp_path / "model.ckpt.pt")["versions"] == package_versions()


NEWER = {**package_versions(), "deepmd-gnn": "77.1"}


def from_the_future(folder, kind):
    """A file that a version 77.1 with another option wrote."""
    path = folder / f"future.{kind}"
    source = LADDER[-1] / ("model.pte.gz" if kind == "pte" else f"model.{kind}")
    source = unpacked(source, folder)
    if kind == "pt":
        content = torch.load(source, weights_only=True)
        section = content["model"]["_extra_state"]["model_params"]
        section.update(telepathy=True, info={"versions": NEWER})
        torch.save(content, path)
        return path
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("extra/model.json"):
                content = json.loads(data)
                content["model"].update({"telepathy": True, "@versions": NEWER})
                data = json.dumps(content).encode()
            new.writestr(entry, data)
    return path


@pytest.mark.parametrize("kind", ["pt", "pte"])
def test_newer_files_are_refused_by_name(kind, tmp_path, capsys):
    path = from_the_future(tmp_path, kind)
    words = f"was written by deepmd-gnn 77.1, which is newer than this {__version__}"
    assert main(["info", str(path)]) == 1
    assert words in capsys.readouterr().err
    with pytest.raises(ValueError, match=re.escape(words)):
        DeepPot(str(path))


def test_a_newer_format_is_refused():
    data = {**tiny_model().serialize(), "@version": 9}
    MaceModel.deserialize(data)  # of this version, so it is known to be readable
    with pytest.raises(ValueError, match=r"newer than this .*Its format is 9"):
        MaceModel.deserialize({**data, "@versions": NEWER})


def test_who_is_newer():
    assert newer_writer({"deepmd-gnn": "77.1"})
    for versions in (
        None,
        {},
        "77.1",
        {"deepmd-gnn": __version__},
        {"deepmd-gnn": "0.1"},
        {"deepmd-gnn": "local"},
    ):
        assert newer_writer(versions) is None


def test_packages_of_this_environment_fit():
    check_versions()


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("deepmd-kit", "3.1.0"),
        ("deepmd-kit", "3.3.0"),
        ("torch", "2.10.1"),
        ("mace-torch", "0.4.0"),
        ("e3nn", "0.5.9"),
    ],
)
def test_other_versions_are_refused(package, version):
    wanted = rf"deepmd-gnn \S+ needs {package}\S+, but {re.escape(version)} is installed\."
    with pytest.raises(ImportError, match=wanted):
        check_versions({**package_versions(), package: version})


def test_missing_packages_are_named():
    found = package_versions()
    del found["e3nn"]
    with pytest.raises(ImportError, match="e3nn==0.4.4, but it is not installed"):
        check_versions(found)


def test_local_and_nightly_builds_fit():
    check_versions({**package_versions(), "torch": "2.11.0+cpu"})


def test_the_message_appears_when_the_host_is_imported():
    code = (
        "import importlib.metadata as m\noriginal = m.version\n"
        "m.version = lambda name: '9.9' if name == 'e3nn' else original(name)\n"
        "import deepmd.pt.model.model\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "needs e3nn==0.4.4, but 9.9 is installed" in done.stderr.splitlines()[-1]
