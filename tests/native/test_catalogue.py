"""Foundation models by name, from a server on the loopback interface; nothing they hold is executed."""

import functools
import http.server
import json
import threading
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

import deepmd_gnn
import deepmd_gnn.native.calculators
from deepmd_gnn.cli import main
from deepmd_gnn.native import catalogue

DATA = Path(__file__).parents[1] / "data"
SMALL, LARGE = "v0.3.6_mace02_com1_swa.model", "reduced_density.model"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves stored models under two names of mace-torch's table; its cache is a folder of the test."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    handler = functools.partial(Quiet, directory=str(DATA))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{httpd.server_port}"
    table = catalogue.foundations_models.mace_mp_urls
    nowhere = {name: f"{url}/nothing/{name}" for name in table}
    monkeypatch.setattr(
        catalogue.foundations_models, "mace_mp_urls",
        {**nowhere, "small": f"{url}/{SMALL}", "large": f"{url}/{LARGE}"},
    )  # fmt: skip
    for name in ("mace_off_urls", "polar_model_urls"):
        known = getattr(catalogue.foundations_models, name)
        monkeypatch.setattr(
            catalogue.foundations_models, name, {key: f"{url}/nothing/{key}.model" for key in known}
        )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def test_convert_by_name(server, tmp_path, capsys):
    output = tmp_path / "w.pt"
    assert main(["convert", "mace-mp:small", "-o", str(output)]) == 0
    captured = capsys.readouterr()
    assert "elements H C O" in captured.out
    assert "MIT" in captured.err
    cached = list((tmp_path / "cache/mace").iterdir())
    assert [file.read_bytes() for file in cached] == [(DATA / SMALL).read_bytes()]
    server.shutdown()  # the second time it comes from the cache
    assert main(["convert", "mace-mp:small", "-o", str(output)]) == 0


def test_calculator(server):
    calculator = deepmd_gnn.mace_mp("small", default_dtype="float64")
    atoms = Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    atoms.calc = calculator
    model = deepmd_gnn.load_mace(DATA / SMALL)
    types = [model.type_map.index(name) for name in atoms.get_chemical_symbols()]
    import torch

    expected = model(torch.tensor(atoms.positions[None]), torch.tensor([types]))
    assert atoms.get_potential_energy() == pytest.approx(float(expected["energy"]), abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), expected["force"][0].detach(), atol=1e-9)


def test_list(server, capsys):
    assert main(["convert", "--list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"mace-mp:small", "mace-mh:mh-1", "mace-off:medium", "mace-omol:extra_large"} <= set(rows)
    assert rows["mace-mp:small"]["size_mb"] == (DATA / SMALL).stat().st_size / 1e6
    assert rows["mace-mp:medium"]["size_mb"] is None  # the server does not have it
    assert rows["mace-omol:extra_large"]["converts"] == "yes"
    assert "ASL" in rows["mace-off:small"]["licence"]
    catalogue.fetch("mace-mp:small")
    assert {row["name"]: row["elements"] for row in catalogue.listed()}["mace-mp:small"] == "H C O"


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("small", "mace-mp:small"),
        ("medium-mpa-0", "mace-mp:medium-mpa-0"),
        ("mh-1", "mace-mh:mh-1"),
        ("small_off", "mace-off:small"),
        ("mace_omol", "mace-omol:extra_large"),
        ("polar-1-s", "mace-polar:polar-1-s"),
        ("mace-mp:large", "mace-mp:large"),
        ("small_of", None),
    ],
)
def test_names_of_natives_flag(flag, name):
    assert catalogue.name_of_flag(flag) == name


def test_foundation_model_of_a_call(server, tmp_path, capsys, monkeypatch):
    """``--foundation_model small`` is fetched, converted and trained on from."""
    monkeypatch.chdir(tmp_path)
    atoms = Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    atoms.info["REF_energy"], atoms.arrays["REF_forces"] = -1.0, np.zeros((3, 3))
    ase.io.write("train.xyz", [atoms, atoms])
    call = "mace_run_train --train_file=train.xyz --foundation_model=small --E0s=foundation"
    assert main(["init", "data", "-o", "input.json", "--like", call]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("Next: dp --pt train input.json --init-model mace-mp-small_start.pt\n")
    assert "mace-mp:small: licence: MIT" in captured.err
    assert Path("mace-mp-small_start.pt").is_file()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mace-mp:medium", "put it at"),
        ("mace-mp:tiny", "mace-torch knows no such model. It has: mace-mp:small"),
        ("mace-polar:polar-1-s", "is not converted: long-range electrostatics"),
    ],
)
def test_what_cannot_be_had(name, words, server, tmp_path, capsys):
    assert main(["convert", name, "-o", str(tmp_path / "w.pt")]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "w.pt").exists()
