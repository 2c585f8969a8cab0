"""Radial tables for models that TorchScript evaluates: frozen ``.pth`` files, and checkpoints opened in Python."""

import logging
from typing import Any

import torch

from deepmd_gnn.graph.arrangement import slots_per_chunk
from deepmd_gnn.kernels.cpu.generated import not_covered, radial_tables
from deepmd_gnn.kernels.tables.functions import combinations
from deepmd_gnn.kernels.tables.probe import compared, probe_atoms
from deepmd_gnn.kernels.tables.radial import RadialTable, slope_factors, value_factors
from deepmd_gnn.nn.staged_network import StagedNetwork

log = logging.getLogger("deepmd.deepmd_gnn")


def tabulate(model: Any) -> None:
    """Give a model the radial tables with which it is evaluated in stages; without them it evaluates its radial networks.

    Parameters
    ----------
    model : GraphModel
        With its final weights. If tables do not cover it, or are not exact enough, the log says so and nothing changes.
    """
    network = model.energy_model
    if not isinstance(network, StagedNetwork):
        return
    training = model.training
    model.eval()
    reason = _tabulated(model, network)
    model.train(training)
    if reason is not None:
        log.warning(
            "%s model: no radial tables: %s. The .pth will be several times slower.", model.type_name, reason
        )


def _tabulated(model: Any, network: StagedNetwork) -> str | None:
    """Fill in the tables, or say why they must not be used."""
    tables = not_covered(network) or radial_tables(network)
    if isinstance(tables, str):
        return tables
    device = model.out_bias.device
    coord, atype = (part.to(device) for part in probe_atoms(len(model.get_type_map()), model.get_rcut()))
    values = model.frame_values.anything(device)
    exact = model(coord, atype, fparam=values)
    fill(network, tables)
    found = compared(model(coord, atype, fparam=values), exact, model.out_bias[0][atype[0]])
    log.info(
        "%s model: radial weights tabulated at %s distances; with the tables energies of probe atoms differ by up to %.1e eV, "
        "forces by %.1e eV/Å (the largest force or energy is %.2g)",
        model.type_name,
        " and ".join(str(table.values.shape[1]) for table in tables),
        *found,
    )
    if found.acceptable(network.dtype):
        model.graphs.slots = slots_per_chunk(network.channels, network.dtype.itemsize, staged=True)
        return None
    network.has_tables = False
    return f"energies would be off by {found.energy:.1e} eV, forces by {found.force:.1e} eV/Å"


def fill(network: Any, tables: list[RadialTable]) -> None:
    """Give the layers of a network their tables.

    Parameters
    ----------
    network : StagedNetwork
        The network, or what TorchScript has made of it.
    tables : list[RadialTable]
        Of all layers.
    """
    grids = [
        ((table.values.shape[1] - 1) * (1.0 / network.r_max + table.bend), table.bend) for table in tables
    ]
    for layer, table in enumerate(tables):
        part = network.get_submodule(f"interactions.{layer}.conv_tp.tabulated")
        kinds, nodes, _, _ = table.values.shape
        weights = table.values.view(kinds, nodes, len(part.order), -1, 4)[:, :, part.order].flatten(2, 3)
        _fill_reader(part, weights, grids[layer], part.mixing.value)
        # Where all senders of an element send the same.
        if layer == 0 and kinds == 1 and part.height == len(part.order):
            of_kinds = network.get_submodule("interactions.0.conv_tp.of_kinds")
            mixing = combinations(weights, part.mixing.value.dtype)
            functions = torch.einsum("nwk,fw->nfk", weights[0], mixing).unsqueeze(0)
            _fill_reader(of_kinds, functions, grids[layer], part.mixing.value)
            of_kinds.weights_of_functions.value = mixing.to(part.mixing.value)
    network.has_tables = True


def _fill_reader(reader: Any, values: torch.Tensor, grid: tuple[float, float], like: torch.Tensor) -> None:
    """Give a :class:`~deepmd_gnn.nn.radial_reader.RadialReader` a table, shape (kinds, nodes, weights, 4), and its grid."""
    reader.table.value = values.transpose(2, 3).to(like.device, like.dtype).contiguous()
    reader.polynomials.value = polynomials().to(like.device)
    reader.grid.value = torch.tensor(grid, dtype=torch.float64, device=like.device)


def polynomials() -> torch.Tensor:
    """Coefficients of the factors of interpolation and of their slopes, by powers of the place between two nodes.

    Returns
    -------
    torch.Tensor
        float64, shape (6, 12): factors of value, slope, curvature and difference at the first node, slope and curvature at the second.
    """
    # Exact: the polynomials have degree 5, and small coefficients that are multiples of a half.
    places = torch.arange(6, dtype=torch.float64)
    powers = places.unsqueeze(1) ** torch.arange(6, dtype=torch.float64)
    values = torch.stack([torch.ones_like(places), *value_factors(places)], dim=1)
    slopes = torch.stack([torch.zeros_like(places), *slope_factors(places)], dim=1)
    coefficients = torch.linalg.solve(powers, torch.cat([values, slopes], dim=1))
    return (2.0 * coefficients).round() / 2.0
