"""The parts of ``gpu_check.py``: ``python gpu_parts.py PART FOLDER`` appends one JSON object per result to PART.jsonl."""

import argparse
import copy
import functools
import subprocess
import sys
import time
from pathlib import Path

import torch
import workload
from gpu_inputs import (
    DEVICE,
    MODELS,
    REPLICAS,
    SIZES,
    Results,
    checkpoint,
    compare,
    compare_replays,
    evaluated,
    expected_results,
    frames,
    reference,
)
from gpu_lammps import lammps  # noqa: F401 - a part
from gpu_timing import launches, milliseconds, wait
from gpu_training import gradients, training  # noqa: F401 - parts


def environment(results, _):
    """What the machine is."""
    import triton

    results.add("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    results.add("torch, triton", f"{torch.__version__}, {triton.__version__}")


def numbers(results, folder):
    """``.pt`` (kernels) and ``.pth`` (torch code) against the CPU."""
    from deepmd.infer import DeepPot

    for size, precision in MODELS:
        file = checkpoint(folder, size, precision)
        begin = time.monotonic()
        pot = DeepPot(str(file))
        found = evaluated(pot)
        results.add(f"{size} {precision} .pt: opened and evaluated first", time.monotonic() - begin, "s")
        compare(results, f"{size} {precision} .pt", found, expected_results(size, folder), precision)
        compare_replays(results, f"{size} {precision} .pt", pot, precision)
    # Sums over edges in torch beside those in kernels.
    density = {
        "hidden_irreps": "16x0e + 16x1o",
        "interaction": "RealAgnosticDensityInteractionBlock",
        "interaction_first": "RealAgnosticDensityInteractionBlock",
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
    }
    pot = DeepPot(str(checkpoint(folder, "S", "float64", "density", **density)))
    compare_replays(results, "density and repulsion, float64, .pt", pot, "float64")
    model = workload.our_model("S", "float32", workload.system("water"))
    torch.jit.script(model).save(str(folder / "S.pth"))
    compare(results, "S float32 .pth", evaluated(folder / "S.pth"), expected_results("S", folder), "float32")


def frozen(results, folder):
    """``.pt2``: frozen, opened and compared in a process of its own, timed; all models at the same time."""
    begin, freezes = time.monotonic(), {}
    for size in SIZES:
        command = [sys.executable, "-m", "deepmd", "--pt-expt", "freeze"]
        weights = checkpoint(folder, size, "float32", f"{size}_frozen")
        command += ["-c", str(weights), "-o", str(folder / f"{size}.pt2")]
        log = (folder / f"{size}.freeze.log").open("w", encoding="utf-8")
        freezes[size] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    while freezes:
        for size, process in list(freezes.items()):
            if process.poll() is None:
                continue
            del freezes[size]
            if process.returncode:
                lines = (folder / f"{size}.freeze.log").read_text(encoding="utf-8").strip().splitlines()
                results.add("failed", f"{size} float32, freezing: {lines[-1][:300]}")
                continue
            results.add(f"{size} float32: freezing", time.monotonic() - begin, "s")
            found = evaluated(folder / f"{size}.pt2")
            compare(results, f"{size} float32 .pt2", found, expected_results(size, folder), "float32")
        time.sleep(0.5)


def speed(results, folder):
    """Whole calls through ``DeepPot``, the network alone, launches."""
    for size, precision in MODELS:
        pot = _timed_file(results, checkpoint(folder, size, precision), f"{size} {precision} .pt")
        _timed_parts(results, f"{size} {precision}", pot.deep_eval.dp.model["Default"])
    for size in SIZES:
        if (folder / f"{size}.pt2").exists():
            _timed_file(results, folder / f"{size}.pt2", f"{size} float32 .pt2")


def _timed_file(results, file, label):
    """Time whole calls, and return what was opened."""
    from deepmd.infer import DeepPot

    pot = DeepPot(str(file))
    for replicas in REPLICAS:
        inputs = frames(replicas)
        natoms = len(inputs[2])
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        whole = milliseconds(functools.partial(pot.eval, *inputs))
        results.add(f"{label}, {natoms} atoms, whole call", whole, "ms")
        if DEVICE.type == "cuda":
            kilobytes = torch.cuda.max_memory_allocated() / natoms / 1e3
            results.add(f"{label}, {natoms} atoms, peak memory", kilobytes, "kB per atom")
    return pot


def _timed_parts(results, label, model):
    """Time neighbours with graph, and the network with its derivatives."""
    for replicas in (REPLICAS[0], REPLICAS[-1]):
        coord, cell, types = frames(replicas)
        tensors = [torch.tensor(values, device=DEVICE) for values in (coord, types[None], cell)]
        search = functools.partial(model.graphs.of_frames, *tensors)
        graph, natoms = search(), len(types)
        network = functools.partial(model.derivatives, graph, tensors[1], natoms, natoms)
        results.add(f"{label}, {natoms} atoms, graph", milliseconds(search), "ms")
        alone = milliseconds(network)
        results.add(f"{label}, {natoms} atoms, network and derivatives", alone, "ms")
        results.add(f"{label}, {natoms} atoms, network and derivatives", alone * 1e3 / natoms, "µs per atom")
        if DEVICE.type == "cuda":
            launches(results, f"{label}, {natoms} atoms", network)


def memory(results, folder):
    """The largest cube of water that fits."""
    from deepmd.infer import DeepPot

    pot = DeepPot(str(checkpoint(folder, "M", "float32")))
    for replicas in (8, 12, 16, 18, 20):
        coord, cell, types = frames(replicas)
        try:
            begin = time.perf_counter()
            pot.deep_eval.dp.model["Default"](
                *(torch.tensor(x, device=DEVICE) for x in (coord, types[None], cell))
            )
            wait()
        except (RuntimeError, MemoryError) as error:
            results.add(f"{len(types)} atoms", str(error)[:150])
            return
        seconds = time.perf_counter() - begin
        kilobytes = torch.cuda.max_memory_allocated() / len(types) / 1e3 if DEVICE.type == "cuda" else 0.0
        results.add(f"M float32, {len(types)} atoms", seconds * 1e6 / len(types), "µs per atom, first call")
        results.add(f"M float32, {len(types)} atoms, peak memory", kilobytes, "kB per atom")


def native(results, folder):
    """Native MACE on the same weights, with cuEquivariance where it is installed, in alternation with ours."""
    from deepmd.infer import DeepPot

    water = workload.system("water")
    for size in workload.MODELS:
        weights = workload.our_model(size, "float32", water).energy_model.state_dict()
        plain = workload.native_model(size, "float32", water, weights)
        candidates = {"native e3nn": plain.to(DEVICE)}
        try:
            from mace.cli.convert_e3nn_cueq import run

            candidates["native + cuEquivariance"] = run(
                copy.deepcopy(plain), device=DEVICE.type, return_model=True
            ).to(DEVICE)
        except Exception as error:  # not installed, or it does not work here
            results.add(f"{size}: native + cuEquivariance", f"not run: {str(error)[:100]}")
        for replicas in REPLICAS[::2]:
            coord, cell, types = frames(replicas)
            bigger = water._replace(atoms=water.atoms * (replicas, replicas, replicas))
            graph = {k: v.to(DEVICE) for k, v in workload.native_graph("float32", bigger).items()}
            for name, model in candidates.items():

                def evaluate(model=model, graph=graph):
                    graph = dict(graph)
                    graph["positions"] = graph["positions"].detach()
                    return model(graph, training=False, compute_force=True, compute_virials=True)

                try:
                    results.add(f"{size} float32 {name}, {len(types)} atoms", milliseconds(evaluate, 5), "ms")
                except RuntimeError as error:
                    results.add(f"{size} float32 {name}, {len(types)} atoms", str(error)[:100])
            pot = DeepPot(str(checkpoint(folder, size, "float32")))
            ours = milliseconds(functools.partial(pot.eval, coord, cell, types), 5)
            results.add(f"{size} float32 ours, {len(types)} atoms, whole call", ours, "ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.part == "reference":
        reference(arguments.folder)
    else:
        globals()[arguments.part](Results(arguments.part, arguments.folder), arguments.folder)
