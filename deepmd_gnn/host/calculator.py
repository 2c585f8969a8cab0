"""DeePMD-kit's ASE calculator for models whose energy depends on charge and spin: ``atoms.info["charge"]`` and ``["spin"]``.

The host's calculator reads ``atoms.info["fparam"]`` only, and ASE does not notice that something in ``atoms.info`` has changed.
"""

import functools
from collections.abc import Callable
from typing import Any

from deepmd_gnn.config.embeddings import Feature
from deepmd_gnn.tools.quantities import frame_values, quantities_of_potential


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

    return calculate


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
