"""Weights of the package ``nequip`` 0.6: the same shapes and order as ours, under other names for layers and readouts."""

import torch

from deepmd_gnn.nn.nequip import NequipEnergy

ANCHOR = "chemical_embedding.linear.weight"
"""Name, without prefix, of a weight of every model."""
_PARTS = {
    "node_embedding": "chemical_embedding",
    "radial_embedding": "radial_basis",
    "linear_up": "linear_1",
    "conv_tp_weights": "fc",
    "linear": "linear_2",
    "skip_tp": "sc",
}


def package_name(name: str) -> str:
    """Name in the package of a weight of :class:`~deepmd_gnn.nn.nequip.NequipEnergy`, without prefix."""
    first, *rest = name.split(".")
    if first == "readouts":
        return ".".join(rest)
    if first == "interactions":
        layer, part, *weight = rest
        return ".".join([f"layer{layer}_convnet.conv", _PARTS[part], *weight])
    return ".".join([_PARTS[first], *rest])


def take_weights(network: NequipEnergy, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Take over weights and scale of a state dictionary of the package.

    Parameters
    ----------
    network : NequipEnergy
        Of the same architecture and elements, in the same order.
    state : dict[str, torch.Tensor]
        ``state_dict()`` of an energy model with any of the package's builders around it.

    Returns
    -------
    torch.Tensor
        E0 with which energies are the package's: shifts and energies of lone atoms, eV, float64, shape (ntypes,).

    Raises
    ------
    ValueError
        If weights are missing or of another shape, or of what :func:`rescaling` refuses.
    """
    prefixes = [name.removesuffix(ANCHOR) for name in state if name.endswith(ANCHOR)]
    if len(prefixes) != 1:
        raise ValueError(
            "nequip model: these are no weights of an energy model of nequip 0.6: they have no "
            f"'{ANCHOR}'. Give the state_dict of such a model."
        )
    prefix = prefixes[0]
    ours = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    names = [n for n, _ in network.named_parameters()] + ["radial_embedding.basis.bessel_weights"]
    for name in names:
        found = state.get(prefix + package_name(name))
        if found is None or found.shape != ours[name].shape:
            shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
            raise ValueError(
                f"nequip model: '{package_name(name)}' is {shape} in the file, but this model has {tuple(ours[name].shape)}. "
                "Write the options of the file's training into the model section, and its elements in the same order."
            )
    with torch.no_grad():
        for name in names:
            ours[name].copy_(state[prefix + package_name(name)])
        scale, shifts = rescaling(state, network.ntypes)
        network.scale.fill_(scale)
        return shifts.to(network.scale.device) + network.lone_energies()


def rescaling(state: dict[str, torch.Tensor], ntypes: int) -> tuple[float, torch.Tensor]:
    """Put the package's two rescalings together.

    Parameters
    ----------
    state : dict[str, torch.Tensor]
        As for :func:`take_weights`.
    ntypes : int
        Number of elements.

    Returns
    -------
    scale : float
        Of the energies.
    shifts : torch.Tensor
        Added to the energy of each element, eV, float64 on the CPU, shape (ntypes,).

    Raises
    ------
    ValueError
        If the scale differs between elements or the energy of a structure is shifted, however many atoms it has.
    """
    last: dict[str, list[torch.Tensor]] = {}
    for name, value in state.items():
        if value.numel():
            last.setdefault(name.split(".")[-1], []).append(value.detach().double().cpu())
    moved = [value for value in last.get("shift_by", []) if value.any()]
    if moved:
        raise ValueError(
            f"nequip model: global_rescale_shift adds {float(moved[0].flatten()[0]):g} eV to every structure, however many atoms it has. Such "
            "an energy is no sum over atoms; shifts per element (per_species_rescale_shifts) are possible."
        )
    outer = float(
        torch.stack([factor.reshape(()) for factor in last.get("scale_by", [])] or [torch.ones(())]).prod()
    )
    scales, shifts = (
        next(
            (
                v.to(torch.float64).cpu()
                for n, v in state.items()
                if n.endswith(f"per_species_rescale.{kind}")
            ),
            torch.zeros(0),
        )
        for kind in ("scales", "shifts")
    )
    if scales.numel() and (scales - scales.flatten()[0]).abs().max() > 0:
        raise ValueError(
            f"nequip model: per_species_rescale_scales differ between the elements: {scales.tolist()}. One scale for all is needed."
        )
    if any(values.numel() not in (0, 1, ntypes) for values in (scales, shifts)):
        raise ValueError(
            f"nequip model: per_species_rescale has {max(scales.numel(), shifts.numel())} values, but there are {ntypes} elements."
        )
    inner = float(scales.flatten()[0]) if scales.numel() else 1.0
    shifts = shifts if shifts.numel() else torch.zeros(1)
    return outer * inner, outer * shifts.double().flatten().expand(ntypes)
