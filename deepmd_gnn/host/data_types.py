"""Types of atoms in training data: whole numbers from 0, where the host cuts fractions and counts negative ones from the end."""

from typing import Any

import numpy as np
from deepmd.utils.path import DPPath


def check_atom_types(folder: DPPath) -> None:
    """Refuse types that the host would take for those of other atoms.

    Parameters
    ----------
    folder : DPPath
        A set of a system, which is the folder above it.

    Raises
    ------
    ValueError
        Names the file and the type.
    """
    system = DPPath(str(folder).rpartition("/")[0] or ".")
    file = system / "type.raw"
    if file.is_file():
        _refuse(
            file.load_txt(ndmin=1), 0, file, "type.raw has each atom's place in type_map.raw, counted from 0."
        )
    file = folder / "real_atom_types.npy"
    if file.is_file():
        _refuse(
            file.load_numpy(),
            -1,
            file,
            "Give each atom's place in type_map.raw, counted from 0, and -1 for padding.",
        )


def _refuse(types: Any, least: int, file: DPPath, what_to_do: str) -> None:
    array = np.asarray(types)
    wrong = array[~((array >= least) & (array == np.rint(array)))]
    if wrong.size:
        raise ValueError(f"mace model: {file} has atom type {wrong[0].item()}. {what_to_do}")
