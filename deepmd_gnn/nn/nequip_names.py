"""Weights of the package ``nequip`` 0.6: the same shapes and order as ours, under other names for layers and readouts."""

import torch

from deepmd_gnn.nn.nequip import NequipEnergy

_ANCHOR = "chemical_embedding.linear.weight"
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
        If weights are missing or of another shape, or the scale differs between elements.
    """
    prefixes = [name.removesuffix(_ANCHOR) for name in state if name.endswith(_ANCHOR)]
    if len(prefixes) != 1:
        raise ValueError(
            "nequip model: these are no weights of an energy model of nequip 0.6: they have no "
            f"'{_ANCHOR}'. Give the state_dict of such a model."
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
        scale, shifts = _rescaling(network, state, prefix)
        network.scale.fill_(scale)
        return shifts + network.lone_energies()


def _rescaling(
    network: NequipEnergy, state: dict[str, torch.Tensor], prefix: str
) -> tuple[float, torch.Tensor]:
    """Scale, and shift of each element in eV, of the package's two rescalings."""
    factors = [value for name, value in state.items() if name.split(".")[-1] == "scale_by" and value.numel()]
    outer = float(torch.stack([f.double().reshape(()) for f in factors]).prod()) if factors else 1.0
    zero = torch.zeros(network.ntypes, dtype=torch.float64, device=network.scale.device)
    scales, shifts = (
        state.get(f"{prefix}per_species_rescale.{name}", zero[:0]).to(zero) for name in ("scales", "shifts")
    )
    if scales.numel() and (scales - scales[0]).abs().max() > 0:
        raise ValueError(
            f"nequip model: per_species_rescale_scales differ between the elements: {scales.tolist()}. One scale for all is needed."
        )
    inner = float(scales[0]) if scales.numel() else 1.0
    return outer * inner, outer * (shifts if shifts.numel() else zero)
