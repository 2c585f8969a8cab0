"""Energies of isolated atoms from a file."""

import json
from pathlib import Path
from typing import Any


def read_atomic_energies(path: str, type_map: list[str]) -> dict[str, float]:
    """Read E0 of the elements of a type map.

    Parameters
    ----------
    path : str
        JSON, ``{"O": -2043.9}`` or by atomic number ``{"8": -2043.9}``; or a file that ASE reads, whose frames of a
        single atom count. Their energy is native MACE's ``REF_energy`` or else ASE's ``energy``.
    type_map : list[str]
        Elements of the model. Others in the file are not used.

    Returns
    -------
    dict[str, float]
        eV, by symbol. Elements that the file lacks are left out.

    Raises
    ------
    ValueError
        If the file is missing, cannot be read, or names none of the elements.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"mace model: 'atomic_energies' is {path!r}, which is neither \"auto\" nor a file in {Path.cwd()}. "
            "E0 can also be given as a dict or a list."
        )
    try:
        found = _from_json(path) if path.endswith(".json") else _from_structures(path)
    except Exception as error:
        raise ValueError(
            f"mace model: atomic_energies: cannot read {path}: {type(error).__name__}: {error}"
        ) from error
    energies = {symbol: energy for symbol, energy in found.items() if symbol in type_map}
    if not energies:
        raise ValueError(
            f"mace model: atomic_energies: {path} has isolated atoms of {sorted(found) or 'no element'}, "
            f"but the type map is {type_map}."
        )
    return energies


def _from_json(path: str) -> dict[str, float]:
    from ase.data import chemical_symbols

    content = json.loads(Path(path).read_text())
    return {
        chemical_symbols[int(key)] if str(key).isdigit() else str(key): float(value)
        for key, value in content.items()
    }


def _from_structures(path: str) -> dict[str, float]:
    from ase.io import read

    energies: dict[str, float] = {}
    for atoms in read(path, index=":"):
        if len(atoms) != 1:
            continue
        symbol = atoms.get_chemical_symbols()[0]
        energy = atoms.info.get("REF_energy")
        energy = float(atoms.get_potential_energy() if energy is None else energy)
        if symbol in energies and energies[symbol] != energy:
            raise ValueError(f"{symbol} has two energies, {energies[symbol]} and {energy} eV")
        energies[symbol] = energy
    return energies


def energies_in_section(section: dict[str, Any], type_map: list[str] | None) -> dict[str, Any]:
    """Replace the name of a file by what it says, so that a checkpoint does not depend on the file.

    Parameters
    ----------
    section : dict[str, Any]
        A model section in either spelling.
    type_map : list[str], optional
        Elements.

    Returns
    -------
    dict[str, Any]
        A changed copy.
    """
    changed = dict(section)
    for key in ("atomic_energies", "E0s"):
        if isinstance(changed.get(key), str) and changed[key] != "auto" and type_map:
            changed[key] = read_atomic_energies(changed[key], type_map)
    if section.get("fitting_net"):
        changed["fitting_net"] = energies_in_section(section["fitting_net"], type_map)
    return changed
