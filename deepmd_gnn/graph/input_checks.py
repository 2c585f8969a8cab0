"""Checks of types, coordinates and cells, the same for every kind of file; TorchScript compiles them."""

import torch


def farthest() -> float:
    """Å from the origin, 4.5e9, where float64 is exact to 1e-6 Å, the distance at which atoms coincide."""
    return 1.0e-6 / 2.0**-52


def check_types(atype: torch.Tensor, type_map: list[str]) -> None:
    """Refuse types that the model does not have.

    Parameters
    ----------
    atype : torch.Tensor
        Types of atoms, integers, any shape; −1 marks padding.
    type_map : list[str]
        Elements of the model.

    Raises
    ------
    ValueError
        If a type is below −1 or not in the map.
    """
    if atype.numel() == 0:
        return
    least, greatest = int(atype.min()), int(atype.max())
    if least < -1 or greatest >= len(type_map):
        raise ValueError(out_of_range(least if least < -1 else greatest, type_map))


def out_of_range(atom_type: int, type_map: list[str]) -> str:
    """What is said of a type that the model does not have."""
    return "mace model: atom type {} is out of range; the model has {} types: {}.".format(
        atom_type, len(type_map), ", ".join(type_map)
    )


def check_coordinates(coord: torch.Tensor) -> None:
    """Refuse coordinates that say nothing about distances.

    Parameters
    ----------
    coord : torch.Tensor
        Å, any shape.

    Raises
    ------
    ValueError
        If a coordinate is not finite, or beyond :func:`farthest`.
    """
    if coord.numel() == 0:
        return
    largest = float(coord.detach().abs().max())  # NaN if any is
    if not largest < float("inf"):
        raise ValueError(
            "mace model: a coordinate is NaN or infinite. Check the input frame or the time step."
        )
    if largest > farthest():
        raise ValueError(
            f"mace model: a coordinate is {largest} Å from the origin; beyond {farthest()} Å float64 does not resolve "
            "distances between atoms. Wrap the atoms into the cell, or check the unit."
        )


def check_cells(box: torch.Tensor) -> None:
    """Refuse cells across which float64 does not resolve distances; others that are no cells, the search refuses.

    Parameters
    ----------
    box : torch.Tensor
        Cell vectors, Å, any shape.

    Raises
    ------
    ValueError
        If a component is longer than :func:`farthest`.
    """
    if box.numel() == 0:
        return
    largest = float(box.detach().abs().max())
    if largest > farthest() and largest < float("inf"):
        raise ValueError(
            f"mace model: a cell vector has a component of {largest} Å; beyond {farthest()} Å float64 does not resolve "
            "distances between atoms. Give no cell for free boundaries, or check the unit."
        )
