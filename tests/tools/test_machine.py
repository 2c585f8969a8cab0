"""What `deepmd-gnn doctor` makes of what programs say."""

import pytest

from deepmd_gnn.tools import machine


@pytest.mark.parametrize(
    ("text", "ok"), [("ranks=1\nranks=1\n deepmd ", False), ("ranks=2\n deepmd ", True), ("lj/cut", False)]
)
def test_lammps(text, ok, monkeypatch):
    """Two runs of one rank: mpirun and lmp of different MPI libraries."""
    monkeypatch.setattr(machine, "find_programs", lambda: FOUND)
    monkeypatch.setattr(machine, "_ask", lambda program: (0, text))
    assert all(finding.ok for finding in machine.lammps()) == ok


FOUND = type("Found", (), {"lmp": "/bin/lmp", "mpirun": "/bin/mpirun"})
