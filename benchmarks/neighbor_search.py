"""Time and peak memory of the neighbour search, from 1 250 to 20 000 atoms, and of the network at one size.

``python benchmarks/neighbor_search.py`` prints a Markdown table. Atoms at the density of water (0.1 per Å³) in a
periodic cube, cutoff 5 Å. Every size runs in a process of its own on one thread; memory is what the process needs
beyond what it held before the first call.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

DENSITY = 0.1
R_MAX = 5.0
SIZES = (1250, 2500, 5000, 10000, 20000)
# A small network: the search is compared with the cheapest model that anyone would run.
NETWORK = {
    "type": "mace",
    "type_map": ["O", "H"],
    "r_max": R_MAX,
    "hidden_irreps": "8x0e",
    "max_ell": 1,
    "correlation": 2,
    "radial_MLP": [16],
    "precision": "float32",
    "avg_num_neighbors": 52.0,
    "scale": 1.0,
    "atomic_energies": {"O": 0.0, "H": 0.0},
    "seed": 1,
}


def random_water(natoms):
    """Points on a displaced grid: the density of water, no two closer than 1 Å.

    Parameters
    ----------
    natoms : int
        Number of atoms.

    Returns
    -------
    coord, atype, box : torch.Tensor
        Å, shape (1, natoms, 3); shape (1, natoms); Å, shape (1, 3, 3).
    """
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    length = (natoms / DENSITY) ** (1 / 3)
    cells = int(np.ceil(natoms ** (1 / 3)))
    spacing = length / cells
    grid = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    sites = grid[rng.permutation(len(grid))[:natoms]]
    room = max(0.0, spacing - 1.0)
    coord = sites * spacing + rng.uniform(0.0, room, (natoms, 3))
    atype = rng.integers(0, 2, natoms)
    return (
        torch.tensor(coord[None]),
        torch.tensor(atype[None]),
        torch.eye(3, dtype=torch.float64)[None] * length,
    )


def _status_mb(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def _measured(call, calls):
    """Results of `call`, CPU seconds (median) and MB beyond those held before."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status_mb("VmRSS")
    seconds = []
    for _ in range(calls):
        begin = time.process_time()
        result = call()
        seconds.append(time.process_time() - begin)
    return result, statistics.median(seconds), _status_mb("VmHWM") - before


def measure_search(natoms, calls):
    """Search the neighbours of one frame.

    Parameters
    ----------
    natoms, calls : int
        Size of the frame and repetitions.

    Returns
    -------
    dict
        Edges, CPU seconds and MB.
    """
    from deepmd_gnn.graph.neighbor_search import NeighborPairs

    search, frame = NeighborPairs(R_MAX), random_water(natoms)
    search(*random_water(64))
    (center, _, _), seconds, memory = _measured(lambda: search(*frame), calls)
    return {"edges": center.numel(), "seconds": seconds, "mb": memory}


def measure_network(natoms, calls):
    """Evaluate energy, forces and virial of a frame whose graph is ready.

    Parameters
    ----------
    natoms, calls : int
        Size of the frame and repetitions.

    Returns
    -------
    dict
        Edges, CPU seconds and MB.
    """
    from deepmd.pt.model.model import get_model

    model = get_model(dict(NETWORK)).eval()
    coord, atype, box = random_water(natoms)
    model(*random_water(64))
    graph = model.graphs.of_frames(coord, atype, box)
    _, seconds, memory = _measured(lambda: model.evaluate(graph, atype, natoms, natoms, None), calls)
    return {"edges": graph.edge_vec.shape[0], "seconds": seconds, "mb": memory}


def measure_call(natoms, calls):
    """Evaluate a frame from coordinates: search and network.

    Parameters
    ----------
    natoms, calls : int
        Size of the frame and repetitions.

    Returns
    -------
    dict
        CPU seconds and MB.
    """
    from deepmd.pt.model.model import get_model

    model, frame = get_model(dict(NETWORK)).eval(), random_water(natoms)
    model(*random_water(64))
    _, seconds, memory = _measured(lambda: model(*frame), calls)
    return {"seconds": seconds, "mb": memory}


TASKS = {"search": measure_search, "network": measure_network, "call": measure_call}


def in_subprocess(task, natoms, calls):
    """Run one of `TASKS` in a fresh process."""
    command = [sys.executable, __file__, "--task", task, "--atoms", str(natoms), "--calls", str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{task} of {natoms} atoms failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def print_table(sizes, calls, network_atoms):
    """Measure every size and print.

    Parameters
    ----------
    sizes : list[int]
        Numbers of atoms.
    calls : int
        Repetitions.
    network_atoms : int
        Size at which the network is measured as well.
    """
    print("| atoms | edges | search, ms CPU | µs per atom | search, MB | kB per atom |")
    print("|---:|---:|---:|---:|---:|---:|", flush=True)
    for natoms in sizes:
        row = in_subprocess("search", natoms, calls)
        ms, kb = 1e3 * row["seconds"], 1024 * row["mb"] / natoms
        print(
            f"| {natoms} | {row['edges']} | {ms:.0f} | {1e3 * ms / natoms:.0f} | {row['mb']:.0f} | {kb:.0f} |",
            flush=True,
        )
    network = in_subprocess("network", network_atoms, calls)
    whole = in_subprocess("call", network_atoms, calls)
    print(f"\n{network_atoms} atoms, {NETWORK['hidden_irreps']}: ", end="")
    print(f"network {1e3 * network['seconds']:.0f} ms, {network['mb']:.0f} MB; ", end="")
    print(f"search and network {1e3 * whole['seconds']:.0f} ms, {whole['mb']:.0f} MB")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=5, help="repetitions; the median counts")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of atoms of the table")
    parser.add_argument("--atoms", type=int, default=10000, help="size at which the network is measured")
    parser.add_argument("--task", choices=list(TASKS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task is None:
        print_table(args.sizes, args.calls, args.atoms)
        return
    import torch

    torch.set_num_threads(1)
    print(json.dumps(TASKS[args.task](args.atoms, args.calls)))


if __name__ == "__main__":
    main()
