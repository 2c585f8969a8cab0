"""DeePMD-kit's ASE calculator for models of ours: charge and spin from ``atoms.info``, standard deviations in ``results``.

The host's calculator reads ``atoms.info["fparam"]`` only, and ASE does not notice that something in ``atoms.info`` has changed.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from deepmd_gnn.config.embeddings import Feature
from deepmd_gnn.tools.quantities import frame_values, quantities_of_potential
from deepmd_gnn.tools.uncertainty import has_uncertainty, uncertainty

# In eV, eV and eV/Å: of the structure, of each atom's energy, and of each atom's force as a vector.
_DEVIATIONS = ("energy_std", "energies_std", "forces_std")


def reading_info(original: Callable[..., None]) -> Callable[..., None]:
    """Let the calculator take the quantities of our models from ``atoms.info``.

    Parameters
    ----------
    original : Callable
        ``deepmd.calculator.DP.calculate``.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def calculate(self: Any, atoms: Any = None, *args: Any, **kwargs: Any) -> None:
        features = _quantities(self)
        given = self.atoms if atoms is None else atoms
        values = frame_values(given.info, features) if features and given is not None else None
        if values is not None:
            atoms = given.copy()
            atoms.info["fparam"] = values
        original(self, atoms, *args, **kwargs)
        if self.parameters.get("uncertainty", True) and _is_uncertain(self):
            wanted = args[0] if args else kwargs.get("properties", ())
            self.results.update(_deviations(self, "forces_std" in (wanted or ())))

    return calculate


def giving_deviations(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let the calculator of a model with uncertainty give its standard deviations where it is asked for them by name.

    Parameters
    ----------
    original : Callable
        ``ase.calculators.calculator.Calculator.get_property``, as ``deepmd.calculator.DP`` inherits it.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def get_property(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        if name in _DEVIATIONS and name not in self.implemented_properties and _is_uncertain(self):
            self.implemented_properties = [*self.implemented_properties, *_DEVIATIONS]
        return original(self, name, *args, **kwargs)

    return get_property


def _is_uncertain(calculator: Any) -> bool:
    """Whether the calculator's model knows its uncertainty, looked up once."""
    kept = vars(calculator)
    if "_deepmd_gnn_uncertain" not in kept:
        kept["_deepmd_gnn_uncertain"] = has_uncertainty(calculator.dp)
    return bool(kept["_deepmd_gnn_uncertain"])


def _deviations(calculator: Any, forces: bool) -> dict[str, Any]:
    """Standard deviations for the atoms that were just evaluated, under ASE's kind of names."""
    atoms = calculator.atoms
    cell = atoms.cell.array.reshape(1, 9) if any(atoms.pbc) else None
    types = [calculator.type_dict[symbol] for symbol in atoms.get_chemical_symbols()]
    found = uncertainty(
        calculator.dp, atoms.positions[None], cell, np.array(types), atoms.info.get("fparam"), forces=forces
    )
    named = {
        "energy_std": float(found["energy_std"][0, 0]),
        "energies_std": found["atom_energy_std"][0, :, 0],
    }
    if forces:
        named["forces_std"] = found["force_std"][0, :, 0]
    return named


def noticing_info(original: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Let the calculator calculate anew when the quantities in ``atoms.info`` have changed.

    Parameters
    ----------
    original : Callable
        ``ase.calculators.calculator.Calculator.check_state``, as ``deepmd.calculator.DP`` inherits it.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def check_state(self: Any, atoms: Any, *args: Any, **kwargs: Any) -> list[str]:
        changes: list[str] = original(self, atoms, *args, **kwargs)
        features = _quantities(self)
        if features and self.atoms is not None and not changes:
            before, now = (frame_values(one.info, features) for one in (self.atoms, atoms))
            same = before is now if before is None or now is None else bool((before == now).all())
            changes = [] if same else ["info"]
        return changes

    return check_state


def _quantities(calculator: Any) -> list[Feature]:
    """Quantities of the calculator's model, looked up once."""
    kept = vars(calculator)
    if "_deepmd_gnn_quantities" not in kept:
        kept["_deepmd_gnn_quantities"] = quantities_of_potential(calculator.dp)
    found: list[Feature] = kept["_deepmd_gnn_quantities"]
    return found
