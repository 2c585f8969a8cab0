"""One measurement in a process of its own: ``python measure.py TASK FOLDER SIZE PRECISION SYSTEM CALLS``.

The last line of the output is a JSON object: CPU seconds of each call, CPU seconds of the first (warm-up) calls,
resident memory before the first call and at its peak in MB, energy in eV and the largest force component in eV/Å.
"""

import argparse
import json
import os
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import workload

WARM_UP = 3
# Files by how they evaluate the network.
FROZEN = {"kernels": "model.pt2", "tables": "plain.pt2"}
LEARNING_RATE = 1e-6  # the weights hardly move, so that every step does the same work


def prepare(folder, size, precision, structure):
    """Write the weights and the TorchScript model that the tasks read.

    Parameters
    ----------
    folder : pathlib.Path
        Where to.
    size, precision : str
        Keys of `workload.IRREPS` and `workload.DTYPES`.
    structure : workload.System
        What the model is for.
    """
    model = workload.our_model(size, precision, structure)
    torch.save(model.energy_model.state_dict(), folder / "weights.pt")
    torch.jit.script(model).save(str(folder / "model.pth"))


def freeze(folder, size, precision, structure, evaluation="kernels", cpu=None):
    """Compile the `.pt2`.

    Parameters
    ----------
    folder : pathlib.Path
        Where to.
    size, precision, structure :
        As in :func:`prepare`.
    evaluation, cpu : str
        See `deepmd_gnn.host.freezing.evaluated_by`.

    Returns
    -------
    float
        CPU seconds, the compiler's included.
    """
    from deepmd.pt_expt.utils import serialization

    from deepmd_gnn.host.freezing import evaluated_by

    data = {"model": workload.our_model(size, precision, structure).serialize(), "model_def_script": {}}
    begin = sum(os.times()[:4])
    name = FROZEN[evaluation]
    with evaluated_by(evaluation, cpu):
        serialization.deserialize_to_file(str(folder / name), data)
    return sum(os.times()[:4]) - begin


def _squares(energy, force):
    return (energy / force.shape[0]).square().sum() + force.square().mean()


def _training_step(model, evaluate):
    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=LEARNING_RATE
    )

    def step():
        optimizer.zero_grad()
        energy, force = evaluate()
        _squares(energy, force).backward()
        optimizer.step()
        return energy, force

    return step


def native_call(folder, size, precision, structure, train):
    """Native MACE on a ready graph: energy and forces, or one training step.

    Parameters
    ----------
    folder : pathlib.Path
        Made by :func:`prepare`.
    size, precision, structure :
        As in :func:`prepare`.
    train : bool
        Whether to train.

    Returns
    -------
    callable
        Returns energy and forces.
    """
    model = workload.native_model(size, precision, structure, torch.load(folder / "weights.pt"))
    graph = workload.native_graph(precision, structure)

    def evaluate():
        out = model({**graph, "positions": graph["positions"].clone()}, training=train, compute_force=True)
        return out["energy"], out["forces"]

    return _training_step(model.train(), evaluate) if train else evaluate


def _tensors(structure):
    """Coordinates, types and cell (None for a molecule) of one frame."""
    cell = torch.as_tensor(np.array(structure.atoms.cell)).reshape(1, 9) if structure.periodic else None
    return (
        torch.as_tensor(structure.atoms.get_positions())[None],
        torch.as_tensor(structure.types)[None],
        cell,
    )


def our_call(folder, size, precision, structure, train, scripted=False):
    """Our model on coordinates, neighbour search included: energy, forces and virial, or one training step.

    Parameters
    ----------
    folder, size, precision, structure, train :
        As in :func:`native_call`.
    scripted : bool
        Whether to evaluate the TorchScript file.

    Returns
    -------
    callable
        Returns energy and forces.
    """
    import deepmd.pt.model.model  # noqa: F401 - loads the host's operators, which the file refers to

    model = (
        torch.jit.load(folder / "model.pth") if scripted else workload.our_model(size, precision, structure)
    )
    if not scripted:
        model.energy_model.load_state_dict(torch.load(folder / "weights.pt"))
    coord, atype, cell = _tensors(structure)

    def evaluate():
        out = model(coord, atype, cell)
        return out["energy"][0], out["force"][0]

    return _training_step(model.train(), evaluate) if train else evaluate


def compiled_call(folder, size, precision, structure):
    """One training step as ``dp --pt-expt train`` takes it with ``"enable_compile": true``.

    Parameters
    ----------
    folder, size, precision, structure :
        As in :func:`native_call`.

    Returns
    -------
    callable
        Returns energy and forces.
    """
    from deepmd.pt_expt.train import training

    model = workload.our_model(size, precision, structure)
    model.energy_model.load_state_dict(torch.load(folder / "weights.pt"))
    model.train()
    buffers = training._detect_task_buffers(model, [model])
    compiled = training._CompiledModel(
        model,
        training._get_model_structure_key(model),
        task_buf_order=tuple(buffers),
        task_buffers=buffers,
    )
    coord, atype, cell = _tensors(structure)

    def evaluate():
        out = compiled(coord, atype, cell)
        return out["energy"][0], out["force"][0]

    return _training_step(compiled.train(), evaluate)


TASKS = {
    "native force": lambda *args: native_call(*args, train=False),
    "native train": lambda *args: native_call(*args, train=True),
    "ours force": lambda *args: our_call(*args, train=False),
    "ours scripted": lambda *args: our_call(*args, train=False, scripted=True),
    "ours train": lambda *args: our_call(*args, train=True),
    "ours compiled train": compiled_call,
}


def _timed(call):
    begin = time.process_time()
    energy, force = call()
    return time.process_time() - begin, float(energy.detach().sum()), float(force.detach().abs().max())


def _peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Run one task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["prepare", "freeze", "freeze plain", *TASKS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("size", choices=list(workload.IRREPS))
    parser.add_argument("precision", choices=list(workload.DTYPES))
    parser.add_argument("system", choices=workload.SYSTEMS)
    parser.add_argument("calls", type=int)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    workload.use_one_thread()
    common = (args.folder, args.size, args.precision, workload.system(args.system))
    if args.task == "prepare":
        prepare(*common)
        return
    if args.task.startswith("freeze"):
        seconds = freeze(*common, "kernels" if args.task == "freeze" else "tables")
        print(json.dumps({"seconds": [seconds], "peak_mb": _peak_mb()}))
        return
    call = TASKS[args.task](*common)
    start_mb = _peak_mb()
    first = [_timed(call) for _ in range(WARM_UP)]
    timed = [_timed(call) for _ in range(args.calls)]
    result = {
        "seconds": [seconds for seconds, _, _ in timed],
        "first_seconds": [seconds for seconds, _, _ in first],
        "start_mb": start_mb,
        "peak_mb": _peak_mb(),
        "energy": first[0][1],
        "max_force": first[0][2],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
