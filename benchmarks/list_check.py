"""What the comparison of LAMMPS' neighbour list with what it should hold costs a run of molecular dynamics.

Whole runs with and without it differ by more than the hundredth that is to be seen as soon as anything else runs on the machine.

``python benchmarks/list_check.py .pt2`` freezes a model of water, S, whose check adds up its own CPU time: in one run, against that of
the process, so that whatever slows the machine slows both. ``python benchmarks/list_check.py .pth`` compares a file that looks at every
evaluation with one that never does, in one process where they take turns: the differences have a standard error. The ratio is of a run
of 1000 steps, of which the check looks at eleven.

On two shared cores: .pt2 0.215 of 33.82 ms of CPU per evaluation, 0.0064; .pth 22.5 ± 3.3 ms for a comparison, 0.0007 ± 0.0001.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import workload
from deepmd.pt.utils.nlist import extend_input_and_build_neighbor_list
from lammps_step import run_lammps

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.list_checks import ListCheck
from deepmd_gnn.kernels.cpu import input_check
from deepmd_gnn.kernels.cpu.compiler import Compiled

RUN, LOOKS = 1000, 11  # steps, and evaluations of them at which a list is compared
REPORT = "list check:"


class Never:
    """The method that a `.pth` compares by, of the same name for TorchScript, without a comparison."""

    def lacking_pairs(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,  # noqa: ARG002
        nloc: int,  # noqa: ARG002
        graph: AtomGraph,  # noqa: ARG002
    ) -> torch.Tensor:
        """No pairs."""
        return torch.zeros(2, 0, dtype=torch.int64, device=coord.device)


class Always:
    """The same with a comparison at every evaluation."""

    def lacking_pairs(
        self, coord: torch.Tensor, atype: torch.Tensor, nloc: int, graph: AtomGraph
    ) -> torch.Tensor:
        """All pairs."""
        return self.lacking_within(self.r_max - 1.0e-3, coord, atype, nloc, graph)


# Around the function that checks, in a .pt2: its CPU time, and that of the process from its first call to its last.
TIMED = """
#include <ctime>
namespace {
double cpu(clockid_t clock) { timespec now; clock_gettime(clock, &now); return now.tv_sec + 1e-9 * now.tv_nsec; }
struct Total {
  double begin = 0.0, end = 0.0, inside = 0.0;
  long calls = 0;
  ~Total() { if (calls > 1) std::fprintf(stderr, "list check: %ld %.9g %.9g\\n", calls, inside, end - begin); }
} total;
}
extern "C" __attribute__((visibility("protected"))) int mace_check_input(PARAMETERS) {
  if (total.calls++ == 0) total.begin = cpu(CLOCK_PROCESS_CPUTIME_ID);
  const double before = cpu(CLOCK_THREAD_CPUTIME_ID);
  const int result = untimed(NAMES);
  total.inside += cpu(CLOCK_THREAD_CPUTIME_ID) - before;
  total.end = cpu(CLOCK_PROCESS_CPUTIME_ID);
  return result;
}
"""
compiled_check = input_check.compiled_check


def timed_check():
    """The check of a `.pt2`, which tells its CPU time when the process ends."""
    sources = dict(compiled_check().sources)
    head, _, body = sources["input_check"].rpartition(
        'extern "C" __attribute__((visibility("protected"))) int mace_check_input('
    )
    parameters = body[: body.index(")")]
    names = ", ".join(re.findall(r"(\w+)\s*(?:,|$)", parameters))
    timed = TIMED.replace("PARAMETERS", parameters).replace("NAMES", names)
    sources["input_check"] = f"{head}static int untimed({body}{timed}"
    return Compiled(sources, ())


def freeze(model, path, looks):
    """Write a model file; a `.pth` that looks at every evaluation or never, a `.pt2` that tells its time.

    Parameters
    ----------
    model : MaceModel
        The model.
    path : pathlib.Path
        Ends in ``.pth`` or ``.pt2``.
    looks : bool
        Whether a `.pth` compares at all. TorchScript keeps a class that it has compiled: one kind per process.
    """
    if path.suffix == ".pth":
        with patch.object(ListCheck, "lacking_pairs", (Always if looks else Never).lacking_pairs):
            torch.jit.script(model).save(str(path))
        return
    from deepmd.pt_expt.utils import serialization

    with patch.object(input_check, "compiled_check", timed_check):
        serialization.deserialize_to_file(str(path), {"model": model.serialize(), "model_def_script": {}})


def timed_run(folder, system, arguments):
    """Print the share of the check in the CPU time of one process."""
    run_lammps(folder, system, arguments.steps, "check.pt2")
    found = (folder / "lammps.out").read_text().rpartition(REPORT)[2].split()
    calls, inside, whole = int(found[0]), float(found[1]), float(found[2])
    print(f".pt2: {calls} evaluations, {1e3 * inside / calls:.3f} of {1e3 * whole / calls:.2f} ms of CPU each in the check, "
          f"share {inside / whole:.4f}", flush=True)  # fmt: skip


def extended(system, skin):
    """What LAMMPS hands over: ghosts within the cutoff and the skin, neighbours likewise, and owners."""
    box = torch.tensor(system.atoms.cell.array).reshape(1, 9)
    coord = torch.tensor(system.atoms.get_positions()).reshape(1, -1)
    types = torch.tensor(system.types).reshape(1, -1)
    found = extend_input_and_build_neighbor_list(
        coord, types, system.r_max + skin, [400], mixed_types=True, box=box
    )
    coord, types, owners, neighbors = found
    return coord.reshape(1, -1, 3), types, neighbors, owners


def paired_evaluations(folder, system, arguments):
    """Print what a comparison costs, from evaluations that take turns in one process."""
    torch.set_num_threads(1)
    models = {name: torch.jit.load(folder / f"{name}.pth") for name in ("never", "always")}
    inputs = extended(system, 2.0)
    seconds = {name: [] for name in models}
    for turn in range(arguments.pairs + 3):
        for name in list(models)[:: 1 if turn % 2 else -1]:
            begin = time.process_time()
            models[name].forward_lower(*inputs)
            seconds[name].append(time.process_time() - begin)
    never, always = (
        np.array(seconds[name][3:]) for name in ("never", "always")
    )  # TorchScript rewrites the first ones
    each, error = np.mean(always - never), np.std(always - never, ddof=1) / np.sqrt(len(never))
    share = LOOKS / RUN / np.mean(never)
    print(f".pth: {1e3 * each:.1f} ± {1e3 * error:.1f} ms of CPU for a comparison, {1e3 * np.mean(never):.1f} for an evaluation; of a run "
          f"of {RUN} steps {share * each:.4f} ± {share * error:.4f}", flush=True)  # fmt: skip


def main():
    """Print a line per kind of file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=".pth, .pt2 (default: both)")
    parser.add_argument("--steps", type=int, default=RUN, help="of the run of a .pt2 (default: %(default)s)")
    parser.add_argument(
        "--pairs", type=int, default=40, help="of evaluations of a .pth, two or more (default: %(default)s)"
    )
    parser.add_argument("--model", default="S", choices=list(workload.IRREPS))
    parser.add_argument("--precision", choices=list(workload.DTYPES), default="float32")
    parser.add_argument("--folder", type=Path, help="keep the files here")
    parser.add_argument("--freeze", type=Path, help=argparse.SUPPRESS)  # this file, in a process of its own
    arguments = parser.parse_args()
    water = workload.system("water")
    if arguments.freeze is not None:
        model = workload.our_model(arguments.model, arguments.precision, water)
        freeze(model, arguments.freeze, arguments.freeze.stem != "never")
        return
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    for kind in arguments.kinds or [".pth", ".pt2"]:
        for name in ("never", "always") if kind == ".pth" else ("check",):
            path = folder / f"{name}{kind}"
            command = [
                sys.executable,
                __file__,
                "--model",
                arguments.model,
                "--precision",
                arguments.precision,
                "--freeze",
                str(path),
            ]
            if not path.exists():
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (paired_evaluations if kind == ".pth" else timed_run)(folder, water, arguments)


if __name__ == "__main__":
    main()
