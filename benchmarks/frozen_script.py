"""Native MACE, the `.pth` and perhaps the `.pt2` side by side: ``python frozen_script.py SIZE PRECISION [REPEATS ...] [--pt2]``.

Energy, forces and virial of water, one thread, CPU milliseconds, files and native in alternation: medians of the turns. Native
evaluates a ready graph, the files find their neighbours, through `DeepPot`. Without `--pt2` no compiler is needed.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import workload


def files(folder, size, precision, structure, pt2):
    """Write the model as the host freezes it, and open the files with `DeepPot`."""
    import measure
    from deepmd.infer import DeepPot

    from deepmd_gnn.files.whole_file import host_file

    model = workload.our_model(size, precision, structure)
    torch.save(model.energy_model.state_dict(), folder / "weights.pt")
    with host_file(folder / "model.pth") as unfinished:
        torch.jit.script(model).save(str(unfinished))
    if pt2:
        measure.freeze(folder, size, precision, structure)
    return {path.suffix: DeepPot(str(path)) for path in sorted(folder.glob("model.p*"))}


def native(folder, size, precision, structure):
    """Native MACE as a function without arguments."""
    model = workload.native_model(size, precision, structure, torch.load(folder / "weights.pt"))
    graph = workload.native_graph(precision, structure)
    return lambda: model({**graph, "positions": graph["positions"].clone()}, compute_force=True)


def timed(call):
    """CPU milliseconds of a call."""
    begin = time.process_time()
    call()
    return 1e3 * (time.process_time() - begin)


def compare(folder, size, precision, repeats, turns, with_native, opened):
    """Time all for one number of atoms and print a line each."""
    structure = workload.system("water")
    structure = structure._replace(atoms=structure.atoms * (repeats, repeats, repeats))
    coord, cell = structure.atoms.get_positions(), np.array(structure.atoms.cell)
    calls = {
        name: lambda file=file: file.eval(coord[None], cell.reshape(1, 9), structure.types)
        for name, file in opened.items()
    }
    if with_native:
        calls["native"] = native(folder, size, precision, structure)
    first = {name: [timed(call) for _ in range(3)] for name, call in calls.items()}
    times = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            times[name].append(timed(call))
    middle = {name: statistics.median(values) for name, values in times.items()}
    natom = len(structure.types)
    for name, value in middle.items():
        ratio = f", native / {name} {middle['native'] / value:.2f}" if with_native else ""
        print(
            f"{size} {precision} {natom} atoms {name}: {value:.0f} ms, {1e3 * value / natom:.0f} µs per atom{ratio}; "
            f"first calls {', '.join(f'{ms:.0f}' for ms in first[name])}",
            flush=True,
        )


def main():
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=list(workload.IRREPS))
    parser.add_argument("precision", choices=list(workload.DTYPES))
    parser.add_argument(
        "repeats", type=int, nargs="*", default=[1, 2], help="1: 192 atoms, 2: 1536, 4: 12288"
    )
    parser.add_argument("--pt2", action="store_true")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    workload.use_one_thread()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        opened = files(folder, args.size, args.precision, workload.system("water"), args.pt2)
        for repeats in args.repeats:
            # Native needs too much memory beyond.
            compare(folder, args.size, args.precision, repeats, args.turns, repeats < 3, opened)


if __name__ == "__main__":
    main()
