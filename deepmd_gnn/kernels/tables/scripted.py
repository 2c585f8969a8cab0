"""Radial tables for models that TorchScript evaluates: frozen ``.pth`` files, and checkpoints opened in Python."""

import torch

from deepmd_gnn.kernels.tables.radial import RadialTable, slope_factors, value_factors
from deepmd_gnn.nn.network import EnergyNetwork


def fill(energy_model: torch.nn.Module, tables: list[RadialTable]) -> None:
    """Give the layers of a network their tables.

    Parameters
    ----------
    energy_model : EnergyNetwork
        The network, or what TorchScript has made of it.
    tables : list[RadialTable]
        Of all layers.
    """
    for layer, table in enumerate(tables):
        convolution = energy_model.get_submodule(f"interactions.{layer}.conv_tp")
        part = energy_model.get_submodule(f"interactions.{layer}.conv_tp.tabulated")
        kinds, nodes, _, _ = table.values.shape
        weights = table.values.view(kinds, nodes, len(part.order), -1, 4)[:, :, part.order]
        rows = weights.permute(0, 1, 4, 2, 3).flatten(3)
        device, dtype = part.mixing.value.device, part.mixing.value.dtype
        part.table.value = rows.to(device, dtype).contiguous()
        per_angstrom = (nodes - 1) / energy_model.r_max
        part.polynomials.value = polynomials(per_angstrom).to(device)
        part.per_angstrom.value = torch.tensor(per_angstrom, dtype=torch.float64, device=device)


def polynomials(per_angstrom: float) -> torch.Tensor:
    """Coefficients of the factors of interpolation and of their slopes, by powers of the place between two nodes; (6, 12).

    Parameters
    ----------
    per_angstrom : float
        Nodes per Å.

    Returns
    -------
    torch.Tensor
        float64, factors of value, slope, curvature and difference at the first node, slope and curvature at the second.
    """
    # Exact: the polynomials have degree 5, and small coefficients that are multiples of a half.
    places = torch.arange(6, dtype=torch.float64)
    powers = places.unsqueeze(1) ** torch.arange(6, dtype=torch.float64)
    values = torch.stack([torch.ones_like(places), *value_factors(places)], dim=1)
    slopes = torch.stack([torch.zeros_like(places), *slope_factors(places)], dim=1)
    coefficients = torch.linalg.solve(powers, torch.cat([values, slopes], dim=1))
    coefficients = (2.0 * coefficients).round() / 2.0
    coefficients[:, 6:] *= per_angstrom
    return coefficients
