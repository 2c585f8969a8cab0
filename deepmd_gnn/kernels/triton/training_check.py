"""Whether kernels of training give what the torch code gives: asked once, on the GPU at hand, before they are used.

They are generated, compiled on the user's machine, and run on GPUs that nobody here has seen.
"""

from collections.abc import Callable
from typing import Any

import torch

from deepmd_gnn.kernels.tables.probe import probe_atoms

# Relative to the largest of a parameter's derivatives. Far above rounding, and far below a term that is missing.
LARGEST = {torch.float32: 2e-3, torch.float64: 1e-8}


def disagreement(model: Any, launch: Callable[[bool], None]) -> str | None:
    """Compare the derivatives of a loss on energies and forces of probe atoms.

    Parameters
    ----------
    model : MaceModel
        In training mode.
    launch : Callable[[bool], None]
        Chooses whether the model's next step launches kernels.

    Returns
    -------
    str or None
        What is wrong with the kernels; None if nothing is.
    """
    try:
        found = _derivatives(model, launch, True)
    except Exception as error:  # no compiler, no headers of Python, out of memory: the torch code needs less
        return str(error).strip() or type(error).__name__
    exact = _derivatives(model, launch, False)
    most = LARGEST[model.energy_model.dtype]
    overall = max(float(value.abs().max()) for value in exact.values() if value.numel())
    for name, value in exact.items():
        if not value.numel():
            continue
        # What is nothing but rounding is compared with the largest of all.
        largest = max(float(value.abs().max()), 1e-6 * overall)
        difference = float((found[name] - value).abs().max()) / largest
        if not difference <= most:
            return f"they are off by {difference:.1e} of the largest value in the derivatives with respect to {name}"
    return None


def _derivatives(model: Any, launch: Callable[[bool], None], by_kernels: bool) -> dict[str, torch.Tensor]:
    """Derivatives with respect to the parameters that are trained, by name."""
    device = model.out_bias.device
    coord, atype = (
        value.to(device) for value in probe_atoms(len(model.get_type_map()), float(model.get_rcut()))
    )
    launch(by_kernels)
    with torch.enable_grad():
        out = model(coord, atype, fparam=model.frame_values.anything(device))
        loss = out["force"].square().mean() + out["energy"].sum()
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(trained.items(), gradients, strict=True)
    }
