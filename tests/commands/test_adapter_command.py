"""``deepmd-gnn adapters``: what it hands on, and what it says. What the files hold is tested with :mod:`~deepmd_gnn.native.adapter_files`."""

import pytest

from deepmd_gnn.cli import main
from deepmd_gnn.commands import adapters
from deepmd_gnn.native import adapter_files


@pytest.mark.parametrize("onto", [[], ["--onto", "foundation.model"]])
def test_hands_on(onto, tmp_path, monkeypatch, capsys):
    calls = []
    for name in ("take_out", "put_on"):
        monkeypatch.setattr(
            adapter_files,
            name,
            lambda *given, name=name: calls.append((name, given)) or output.write_text("x" * 2000),
        )
    output = tmp_path / "b.pt"
    assert main(["adapters", "a.pt", "-o", str(output), "--head", "x", *onto]) == 0
    name, given = calls[0]
    assert name == ("put_on" if onto else "take_out")
    assert given[-1] == "x"
    assert given[1] == ("foundation.model" if onto else output)
    assert (
        "with whole weights, 2 kB" in (out := capsys.readouterr().out)
        or "the adapters, E0 and options, 2 kB" in out
    )


def test_refused(capsys):
    assert main(["adapters", "a.model", "-o", "b.pt"]) == 1
    assert "a.model: must be a .pt file" in capsys.readouterr().err
    assert adapters.add_parsers
