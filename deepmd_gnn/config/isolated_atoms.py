"""Energies of isolated atoms, from a file or written into the input: one rule for both."""

import json
import logging
from pathlib import Path
from typing import Any

from deepmd_gnn.config import checks
from deepmd_gnn.config.mm_types import element_of

log = logging.getLogger("deepmd.deepmd_gnn")  # below the host's logger, so that `dp train` prints it


def energies_of_types(
    energies: dict[str, Any], type_map: list[str], path: str | None = None
) -> dict[str, Any]:
    """Pick the energies of a model's types.

    Parameters
    ----------
    energies : dict[str, Any]
        By symbol or atomic number, eV; None where the energy is to be fitted.
    type_map : list[str]
        Types of the model. Other elements are not used, and a line in the log says so.
    path : str, optional
        File that they are from, for messages.

    Returns
    -------
    dict[str, Any]
        By name of the type. Types without energy are left out.

    Raises
    ------
    ValueError
        If a key is no element or MM type, an energy is no finite number, or none belongs to the model.
    """
    named = _by_name(energies)
    unused = sorted(set(named) - set(type_map))
    if len(unused) == len(named) > 0:
        source = f" ({path})" if path else ""
        raise ValueError(
            f"mace model: atomic_energies{source} names only isolated atoms of {unused}, but the type map is {type_map}."
        )
    if unused:
        log.info("MACE atomic energies of %s are not used: type_map is %s.", unused, type_map)
    return {name: value for name, value in named.items() if name in type_map}


def _by_name(energies: dict[str, Any]) -> dict[str, Any]:
    from ase.data import atomic_numbers, chemical_symbols

    named: dict[str, Any] = {}
    for key, value in energies.items():
        number = int(key) if str(key).isdigit() else atomic_numbers.get(element_of(str(key)), 0)
        if not 0 < number < len(chemical_symbols):
            raise ValueError(
                f"mace model: atomic_energies names {key!r}, which is no element and no MM type."
            )
        named[chemical_symbols[number] if str(key).isdigit() else str(key)] = value
    checks.atomic_energies("atomic_energies", named)
    return named


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
        found = _by_name(_from_json(path) if path.endswith(".json") else _from_structures(path))
    except Exception as error:
        raise ValueError(
            f"mace model: atomic_energies: cannot read {path}: {type(error).__name__}: {error}"
        ) from error
    if not found:
        raise ValueError(
            f"mace model: atomic_energies: {path} has no isolated atoms, but the type map is {type_map}."
        )
    return energies_of_types(found, type_map, path)


def _from_json(path: str) -> dict[str, Any]:
    content = json.loads(Path(path).read_text())
    if not isinstance(content, dict):
        raise TypeError(f"a {type(content).__name__} instead of names and energies")
    return content


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
    """Replace the name of a file by what it says, so that a checkpoint does not depend on the file; keep the model's types.

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
        if isinstance(changed.get(key), dict) and type_map:
            changed[key] = energies_of_types(changed[key], type_map)
        elif isinstance(changed.get(key), str) and changed[key] != "auto" and type_map:
            changed[key] = read_atomic_energies(changed[key], type_map)
    if section.get("fitting_net"):
        changed["fitting_net"] = energies_in_section(section["fitting_net"], type_map)
    return changed
