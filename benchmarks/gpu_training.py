"""Training steps of ``gpu_check.py``: numbers and times."""

import contextlib
import time
import traceback

import torch
import workload
from gpu_inputs import DEVICE, MODELS, frames
from gpu_timing import launches, milliseconds, wait


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
            wait()
            results.add(f"{label}: first step", time.monotonic() - begin, "s")
            if DEVICE.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            results.add(f"{label}: training step, 4 × 192 atoms", milliseconds(step, 5), "ms")
            if DEVICE.type == "cuda":
                gigabytes = torch.cuda.max_memory_allocated() / 1e9
                results.add(f"{label}: peak memory of a step", gigabytes, "GB")
                launches(results, label, step)
