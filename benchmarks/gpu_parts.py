"""The parts of ``gpu_check.py``: ``python gpu_parts.py PART FOLDER`` appends one JSON object per result to PART.jsonl."""

import argparse
import contextlib
import copy
import functools
import os
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
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
    model = workload.our_model("S", "float32", workload.system("water"))
    torch.jit.script(model).save(str(folder / "S.pth"))
    compare(results, "S float32 .pth", evaluated(folder / "S.pth"), expected_results("S", folder), "float32")


def frozen(results, folder):
    """``.pt2``: frozen, opened and compared in a process of its own, timed; all models at the same time."""
    begin, freezes = time.monotonic(), {}
    for size in SIZES:
        command = [sys.executable, "-m", "deepmd", "--pt-expt", "freeze"]
        command += ["-c", str(checkpoint(folder, size, "float32")), "-o", str(folder / f"{size}.pt2")]
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


def _milliseconds(evaluate, calls=10):
    for _ in range(4):
        evaluate()
    times = []
    for _ in range(calls):
        _wait()
        begin = time.perf_counter()
        evaluate()
        _wait()
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e3


def _wait():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


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
        whole = _milliseconds(functools.partial(pot.eval, *inputs))
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
        results.add(f"{label}, {natoms} atoms, graph", _milliseconds(search), "ms")
        alone = _milliseconds(network)
        results.add(f"{label}, {natoms} atoms, network and derivatives", alone, "ms")
        results.add(f"{label}, {natoms} atoms, network and derivatives", alone * 1e3 / natoms, "µs per atom")
        if DEVICE.type == "cuda":
            _launches(results, f"{label}, {natoms} atoms", network)


def _launches(results, label, evaluate):
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        evaluate()
        torch.cuda.synchronize()
    kernels = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
    busy = sum(event.self_device_time_total for event in kernels) / 1e3
    results.add(f"{label}: launches", sum(event.count for event in kernels))
    results.add(f"{label}: time in kernels", busy, "ms")
    for event in sorted(kernels, key=lambda event: -event.self_device_time_total)[:12]:
        print(f"    {event.self_device_time_total / 1e3:8.3f} ms  {event.count} × {event.key[:90]}")


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
            _wait()
        except (RuntimeError, MemoryError) as error:
            results.add(f"{len(types)} atoms", str(error)[:150])
            return
        seconds = time.perf_counter() - begin
        kilobytes = torch.cuda.max_memory_allocated() / len(types) / 1e3 if DEVICE.type == "cuda" else 0.0
        results.add(f"M float32, {len(types)} atoms", seconds * 1e6 / len(types), "µs per atom, first call")
        results.add(f"M float32, {len(types)} atoms, peak memory", kilobytes, "kB per atom")


def gradients(results, _):
    """Loss and gradients of a training step against the CPU, with kernels and without."""
    _each_model(results, _gradients)


def training(results, _):
    """Time of a training step of 4 × 192 atoms, with kernels and without."""
    _each_model(results, _training_step)


def _each_model(results, part):
    for size, precision in MODELS:
        try:
            part(results, size, precision)
        except Exception as error:  # the other sizes still count
            traceback.print_exc()
            results.add("failed", f"{size} {precision}, {part.__name__}: {str(error).strip()[-300:]}")


@contextlib.contextmanager
def _without_kernels(without):
    """Train with the torch code, if asked to."""
    from deepmd_gnn import mace

    before = mace.trains_on
    mace.trains_on = (lambda _: False) if without else before
    try:
        yield
    finally:
        mace.trains_on = before


def _loss(model, batch):
    out = model(*batch)
    return out["force"].square().mean() + (out["energy"] / batch[1].shape[1]).square().mean()


def _gradients(results, size, precision):
    """One step with 24 atoms of a small cell on the GPU, in `precision`, against the torch code on the CPU in float64."""
    water = workload.system("water")
    coord, types = torch.tensor(water.atoms.positions[None, :24]), torch.tensor(water.types[None, :24])
    batch = (coord, types, torch.diag(torch.tensor([10.0, 9.0, 11.0], dtype=torch.float64)).view(1, 9))
    model = workload.our_model(size, precision, water)
    exact = workload.our_model(size, "float64", water).to("cpu")
    exact.energy_model.load_state_dict(model.energy_model.state_dict())
    found = {}
    for name, network, without in (
        ("CPU", exact, True),
        ("kernels", model, False),
        ("torch code", model, True),
    ):
        device = "cpu" if name == "CPU" else DEVICE
        with _without_kernels(without):
            network.to(device).train().zero_grad()
            loss = _loss(network, [x.to(device) for x in batch])
            loss.backward()
        gradients = {k: p.grad.cpu().clone() for k, p in network.named_parameters() if p.grad is not None}
        found[name] = loss.item(), gradients
    loss, expected = found.pop("CPU")
    limit = 1e-10 if precision == "float64" else 1e-5
    for name, (ours, gradients) in found.items():
        deviations = {
            key: float((gradients[key].double() - g).abs().max() / g.abs().max().clamp(min=1e-300))
            for key, g in expected.items()
        }
        worst = max(deviations, key=deviations.get)
        results.add(f"{size} {precision}, {name}: loss off by", abs(ours / loss - 1), "relative")
        results.add(
            f"{size} {precision}, {name}: gradient of {worst} off by", deviations[worst], "of the largest"
        )
        if name == "kernels" and not max(deviations[worst], abs(ours / loss - 1)) < limit:
            results.add("wrong", f"gradients of a training step, {size} {precision}")


def _training_step(results, size, precision):
    """Time, launches and memory of a step."""
    coord, cell, types = (torch.tensor(x) for x in frames(1))
    batch = [x.expand(4, *x.shape[1:]).contiguous().to(DEVICE) for x in (coord, types[None], cell)]
    for name, without in (("kernels", False), ("torch code", True)):
        model = workload.our_model(size, precision, workload.system("water")).to(DEVICE).train()
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-6)

        def step(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            _loss(model, batch).backward()
            optimizer.step()

        label = f"{size} {precision}, {name}"
        with _without_kernels(without):
            begin = time.monotonic()
            step()
            _wait()
            results.add(f"{label}: first step", time.monotonic() - begin, "s")
            if DEVICE.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            results.add(f"{label}: training step, 4 × 192 atoms", _milliseconds(step, 5), "ms")
            if DEVICE.type == "cuda":
                gigabytes = torch.cuda.max_memory_allocated() / 1e9
                results.add(f"{label}: peak memory of a step", gigabytes, "GB")
                _launches(results, label, step)


def lammps(results, folder):
    """One rank and two on this GPU: energy against Python, and time per step of 1536 atoms."""
    from deepmd.infer import DeepPot

    command = shlex.split(os.environ.get("GPU_CHECK_LAMMPS", "mpirun -n {ranks} lmp -in"))
    if shutil.which(command[0]) is None:
        results.add("not run", f"{command[0]} is not installed")
        return
    coord, cell, types = frames(min(2, REPLICAS[-1]))
    import ase
    import ase.io

    symbols = [workload.system("water").type_map[kind] for kind in types]
    atoms = ase.Atoms(symbols, coord[0], cell=cell.reshape(3, 3), pbc=True)
    ase.io.write(folder / "water.data", atoms, format="lammps-data", specorder=["O", "H"], masses=True)
    for file in ("M.pt2", "S.pt2", "S.pth"):
        if not (folder / file).exists():
            continue
        energy = float(DeepPot(str(folder / file)).eval(coord, cell, types)[0].ravel()[0])
        for ranks in (1, 2):
            text = f"""units metal
atom_style atomic
atom_modify map yes
boundary p p p
read_data water.data
pair_style deepmd {file}
pair_coeff * * O H
velocity all create 300 1
fix 1 all nve
timestep 0.0001
thermo 50
thermo_style custom step pe
thermo_modify format float %.10f
run 50
run 50
"""
            (folder / f"in.{file}").write_text(text, encoding="utf-8")
            run = [part.format(ranks=ranks) for part in command]
            done = subprocess.run(
                [*run, f"in.{file}"], cwd=folder, capture_output=True, text=True, check=False
            )
            rows = [line.split() for line in done.stdout.splitlines()]
            steps = [float(row[1]) for row in rows if len(row) == 2 and row[0] == "0"]
            loops = [float(row[3]) for row in rows if row[:2] == ["Loop", "time"]]
            if done.returncode or not steps or len(loops) < 2:
                results.add("failed", f"{file}, {ranks} ranks: {(done.stderr or done.stdout).strip()[-200:]}")
                continue
            results.add(
                f"{file}, {ranks} ranks: energy against Python",
                abs(steps[0] - energy) / len(types),
                "eV per atom",
            )
            results.add(f"{file}, {ranks} ranks: step of 1536 atoms", loops[-1] / 50 * 1e3, "ms")


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
                    results.add(
                        f"{size} float32 {name}, {len(types)} atoms", _milliseconds(evaluate, 5), "ms"
                    )
                except RuntimeError as error:
                    results.add(f"{size} float32 {name}, {len(types)} atoms", str(error)[:100])
            pot = DeepPot(str(checkpoint(folder, size, "float32")))
            ours = _milliseconds(functools.partial(pot.eval, coord, cell, types), 5)
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
