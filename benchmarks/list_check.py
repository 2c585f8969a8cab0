"""What the comparison of LAMMPS' neighbour list with what it should hold costs: the same run with and without it.

``python benchmarks/list_check.py .pth .pt2 --steps 1000`` freezes a model of water, S, with and without the check, lets the two
files take turns, and prints CPU seconds per step, the least of the repetitions, and the ratio.
"""

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
import workload
from lammps_step import run_lammps

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.list_checks import ListCheck
from deepmd_gnn.kernels.cpu import input_check
from deepmd_gnn.kernels.cpu.compiler import Compiled


def lacking_pairs(
    self,  # noqa: ARG001
    coord: torch.Tensor,
    atype: torch.Tensor,  # noqa: ARG001
    nloc: int,  # noqa: ARG001
    graph: AtomGraph,  # noqa: ARG001
) -> torch.Tensor:
    """In the place of the method that a `.pth` compares by."""
    return torch.zeros(2, 0, dtype=torch.int64, device=coord.device)


def only_copied():
    """The check of a `.pt2`, without what looks at the values and at the list."""
    compiled = checked()
    sources = dict(compiled.sources)
    call = "if (int refused = check_"
    sources["input_check"] = (
        sources["input_check"]
        .replace(f"{call}values(", f"if (false) {call}values(")
        .replace(f"{call}places(", f"if (false) {call}places(")
        .replace("return age_ ? 0.0 :", "return true ? 0.0 :")
    )
    return Compiled(sources, ())


checked = input_check.compiled_check


def freeze(model, path, check):
    """Write a model file, if it is not there yet."""
    if path.exists():
        return
    if path.suffix == ".pth":
        with nullcontext() if check else patch.object(ListCheck, "lacking_pairs", lacking_pairs):
            torch.jit.script(model).save(str(path))
        return
    from deepmd.pt_expt.utils import serialization

    with nullcontext() if check else patch.object(input_check, "compiled_check", only_copied):
        serialization.deserialize_to_file(str(path), {"model": model.serialize(), "model_def_script": {}})


def main():
    """Print a line per kind of file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", default=[".pth", ".pt2"], choices=[".pth", ".pt2"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="S", choices=list(workload.IRREPS))
    parser.add_argument("--precision", choices=list(workload.DTYPES), default="float32")
    parser.add_argument("--folder", type=Path, help="keep the files here")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    water = workload.system("water")
    for kind in arguments.kinds:
        files = {check: folder / f"{'with' if check else 'without'}{kind}" for check in (True, False)}
        for check, path in files.items():
            freeze(workload.our_model(arguments.model, arguments.precision, water), path, check)
        seconds = {True: [], False: []}
        for _ in range(arguments.repeats):
            for check, path in files.items():
                run = run_lammps(folder, water, arguments.steps, path.name)
                seconds[check] += run["seconds"]
                print(path.name, f"{1e3 * run['seconds'][0]:.2f} ms of CPU per step", flush=True)
        least = {check: min(values) for check, values in seconds.items()}
        print(f"{kind}: {1e3 * least[True]:.2f} ms with, {1e3 * least[False]:.2f} ms without the check, "
              f"ratio {least[True] / least[False]:.4f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
