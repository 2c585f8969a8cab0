"""A freeze opens what it wrote, in a process of its own, and compares energies and forces with the model's own."""

import json
import logging
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from deepmd_gnn.files.opening import ANSWER, REQUEST
from deepmd_gnn.host.classes import model_of
from deepmd_gnn.kernels.tables.probe import compared, probe_atoms

log = logging.getLogger("deepmd.deepmd_gnn")
# Between the file and the model are the error of the tables, which the freeze has looked at, and rounding.
SLACK = 10.0
LONGEST = 600  # seconds
ONE_RANK, RANKS = "program for one rank.pt2", "program for several ranks.pt2"
_EXCHANGE = ("border_op", "border_op_backward")
_ADVICE = (
    "No file was written. Check the C++ compiler and its libraries; `deepmd-gnn freeze --no-kernels` compiles simpler "
    "code, and a .pth needs no compiler."
)


def check_file(file: Path, data: dict[str, Any]) -> None:
    """Open the programs of a ``.pt2``, evaluate probe atoms and compare with the model.

    Parameters
    ----------
    file : Path
        The file.
    data : dict[str, Any]
        What it was made from, see :func:`~deepmd_gnn.host.storage.serialized`.

    Raises
    ------
    RuntimeError
        If a program cannot be opened or evaluated, or gives other numbers.
    """
    from deepmd.pt.utils import env

    model = model_of({key: value for key, value in data.items() if key != "@kernels"})
    model.eval()
    coord, atype = (value.to(env.DEVICE) for value in probe_atoms(len(model.type_map), model.rcut))
    values = model.frame_values.anything(coord.device)
    exact = model(coord, atype, fparam=values)
    if not bool(torch.isfinite(exact["atom_energy"]).all() and torch.isfinite(exact["force"]).all()):
        log.warning(
            "mace model: energies or forces of probe atoms are not finite. Check the weights, which training may have lost."
        )
        return
    isolated = model.out_bias[0][atype[0]].cpu()
    exact = {name: value.detach().cpu() for name, value in exact.items()}
    inputs = inputs_of(model, coord, atype) + ([values] if values.numel() else [])
    for name, outputs in evaluated(file, inputs, str(env.DEVICE)).items():
        # The file has one axis of atoms for all frames.
        found = {key: value.unsqueeze(0) for key, value in outputs.items()}
        difference = compared(found, exact, isolated)
        if not difference.acceptable(model.energy_model.dtype, SLACK):
            raise RuntimeError(
                f"mace model: the compiled {Path(name).stem} gives other numbers than the model: energies of probe atoms "
                f"differ by up to {difference.energy:.1e} eV, forces by {difference.force:.1e} eV/Å. {_ADVICE}"
            )
        log.info(
            "mace model: the %s opens; energies of probe atoms are those of the model to %.1e eV, forces to %.1e eV/Å",
            Path(name).stem,
            difference.energy,
            difference.force,
        )


def inputs_of(model: Any, coord: torch.Tensor, atype: torch.Tensor) -> list[torch.Tensor]:
    """Inputs of a program for one frame without a cell, see the edge-list lower of :mod:`~deepmd_gnn.host.edge_lower`.

    Parameters
    ----------
    model : Evaluation
        The model.
    coord, atype : torch.Tensor
        Å and types, shapes (1, natom, 3) and (1, natom).

    Returns
    -------
    list[torch.Tensor]
        Types, numbers of atoms, edges, and the edges grouped by centre and by neighbour.
    """
    center, neighbor, vectors = model.graphs.pairs(coord, atype, None)
    natom = torch.full_like(atype[0, :1], atype.numel())
    groups: list[torch.Tensor] = []
    for rows in (center, neighbor):
        count = torch.bincount(rows, minlength=atype.numel())
        groups += [torch.argsort(rows, stable=True), torch.nn.functional.pad(count.cumsum(0), (1, 0))]
    edges = [torch.stack([neighbor, center]), vectors, torch.ones_like(center, dtype=torch.bool)]
    return [atype[0], natom, natom, *edges, *groups]


def evaluated(file: Path, inputs: list[torch.Tensor], device: str) -> dict[str, dict[str, torch.Tensor]]:
    """Evaluate all programs of a ``.pt2`` in a process of its own.

    Parameters
    ----------
    file : Path
        The file.
    inputs : list[torch.Tensor]
        From :func:`inputs_of`.
    device : str
        Where.

    Returns
    -------
    dict[str, dict[str, torch.Tensor]]
        For each program its results on the CPU, in shape as of :func:`~deepmd_gnn.host.results.public_results`.

    Raises
    ------
    RuntimeError
        If the process ends without an answer.
    """
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(file) as archive:
        folder = Path(name)
        entries = {Path(entry).name: entry for entry in archive.namelist() if "/extra/" in entry}
        keys = json.loads(archive.read(entries["metadata.json"]))["output_keys"]
        inputs = [value.detach().cpu() for value in inputs]
        (folder / ONE_RANK).symlink_to(file.absolute())
        programs, operators = [(ONE_RANK, inputs)], []
        if "forward_lower_with_comm.pt2" in entries:
            (folder / RANKS).write_bytes(archive.read(entries["forward_lower_with_comm.pt2"]))
            programs.append((RANKS, inputs + _no_ghosts(len(inputs[0]))))
            exchange = torch.ops.deepmd_export
            operators = [str(getattr(exchange, each).default._schema) for each in _EXCHANGE]
        request = {"programs": programs, "operators": operators, "device": device}
        torch.save(request, folder / REQUEST)
        _run(folder)
        answer = torch.load(folder / ANSWER, weights_only=True)
        return {
            name: dict(zip(keys, outputs, strict=True))
            for (name, _), outputs in zip(programs, answer, strict=True)
        }


def _no_ghosts(natom: int) -> list[torch.Tensor]:
    """Communication tensors of a rank that sends nothing to itself."""
    nothing, none = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
    counts = [torch.tensor(number, dtype=torch.int32) for number in (natom, 0)]
    return [none, nothing, nothing, nothing, nothing, none, *counts]


def _run(folder: Path) -> None:
    """Start the process, and say why it ended if that was too early."""
    command = [sys.executable, "-m", "deepmd_gnn.files.opening"]
    try:
        done = subprocess.run(
            command, input=str(folder), capture_output=True, text=True, check=False, timeout=LONGEST
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(
            f"mace model: the compiled file did not answer within {LONGEST} s. {_ADVICE}"
        ) from error
    if done.returncode == 0:
        return
    started = [line for line in done.stdout.splitlines() if line in (ONE_RANK, RANKS)]
    what = f"the compiled {Path(started[-1]).stem}" if started else "the process that opens the compiled file"
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    # Compiled code says what was wrong before torch says that something was.
    reasons = [line for line in said if line.startswith("Error: ")][-1:] + said[-1:]
    reason = "; ".join(reasons) or f"exit status {done.returncode}"
    if done.returncode < 0:
        reason = f"signal {signal.Signals(-done.returncode).name}"
    raise RuntimeError(f"mace model: {what} cannot be opened and evaluated ({reason}). {_ADVICE}")
