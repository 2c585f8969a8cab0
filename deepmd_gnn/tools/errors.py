"""Errors of predictions, by system and by element."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from deepmd_gnn.datasets.frames import Frame
from deepmd_gnn.datasets.labels import Labels
from deepmd_gnn.datasets.layout import formula


@dataclass
class Sums:
    """Of errors of one quantity."""

    count: int = 0
    squares: float = 0.0
    absolutes: float = 0.0

    def add(self, errors: Any) -> None:
        """Add errors of any shape."""
        array = np.asarray(errors, dtype=float)
        self.count += array.size
        self.squares += float((array**2).sum())
        self.absolutes += float(np.abs(array).sum())

    def to_dict(self) -> dict[str, float] | None:
        """Root mean square, mean absolute and number; None without errors."""
        if not self.count:
            return None
        return {"rmse": (self.squares / self.count) ** 0.5, "mae": self.absolutes / self.count, "count": self.count}  # fmt: skip


@dataclass
class ErrorTable:
    """Errors of energies (eV/atom), forces (eV/Å) and stress (eV/Å³)."""

    rows: dict[tuple[str, str], dict[str, Sums]] = field(default_factory=dict)
    """By kind ("all", "system", "element") and name."""
    frames: Counter[str] = field(default_factory=Counter)
    """Labelled frames by system."""

    def add(self, frame: Frame, labels: Labels, energy: float, forces: np.ndarray, virial: Any) -> None:
        """Add a frame.

        Parameters
        ----------
        frame : Frame
            Its system is :func:`system_name`.
        labels : Labels
            References.
        energy, forces, virial
            Predictions, eV, eV/Å and eV, shapes (), (natom, 3) and (3, 3); no virial without cell.
        """
        system = system_name(frame)
        if labels.names:
            self.frames[system] += 1
        errors: dict[str, Any] = {}
        if labels.energy is not None:
            errors["energy"] = (energy - labels.energy) / frame.natoms
        if labels.forces is not None:
            errors["forces"] = forces - labels.forces
        if labels.virial is not None and virial is not None:
            errors["stress"] = (virial - labels.virial) / abs(float(np.linalg.det(frame.cell)))
        for quantity, values in errors.items():
            self._sums("all", "all", quantity).add(values)
            self._sums("system", system, quantity).add(values)
        if "forces" in errors:
            for number in np.unique(frame.numbers):
                name = chemical_symbols[int(number)]
                self._sums("element", name, "forces").add(errors["forces"][frame.numbers == number])

    def _sums(self, kind: str, name: str, quantity: str) -> Sums:
        return self.rows.setdefault((kind, name), {}).setdefault(quantity, Sums())

    def to_dict(self) -> dict[str, Any]:
        """All rows, for JSON."""
        found: dict[str, Any] = {"all": {}, "system": {}, "element": {}}
        for (kind, name), quantities in self.rows.items():
            values = {quantity: sums.to_dict() for quantity, sums in quantities.items()}
            if kind == "all":
                found["all"] = values
            else:
                found[kind][name] = values
        return found

    def text(self) -> str:
        """The table for a terminal; empty without references."""
        if not self.rows:
            return ""
        columns = [("energy", "meV/atom"), ("forces", "meV/Å"), ("stress", "meV/Å³")]
        used = [(q, u) for q, u in columns if any(q in quantities for quantities in self.rows.values())]
        head = f"{'RMSE (MAE)':<28}{'frames':>8}" + "".join(f"{f'{q} {u}':>24}" for q, u in used)
        lines = [head]
        systems = sum(kind == "system" for kind, _ in self.rows)
        for kind in ("system", "element", "all"):
            if kind == "system" and systems < 2:
                continue
            for (of, name), quantities in self.rows.items():
                if of == kind:
                    lines.append(self._line(kind, name, quantities, [q for q, _ in used]))
        return "\n".join(lines) + "\n"

    def _line(self, kind: str, name: str, quantities: dict[str, Sums], used: list[str]) -> str:
        frames = {"all": str(sum(self.frames.values())), "system": str(self.frames[name])}.get(kind, "")
        line = f"{name[:27]:<28}{frames:>8}"
        for quantity in used:
            values = quantities[quantity].to_dict() if quantity in quantities else None
            text = "" if values is None else f"{1000 * values['rmse']:.4g} ({1000 * values['mae']:.4g})"
            line += f"{text:>24}"
        return line


def system_name(frame: Frame) -> str:
    """What a frame's system is called: its config_type, else its composition."""
    if frame.config_type != "Default":
        return frame.config_type
    return formula(frame.numbers, [chemical_symbols[number] for number in np.unique(frame.numbers)])
