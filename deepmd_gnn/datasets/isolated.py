"""Isolated atoms: their energies are E0, and no training data."""

from dataclasses import dataclass, field

import numpy as np
from ase.data import chemical_symbols

from deepmd_gnn.datasets.frames import Frame
from deepmd_gnn.datasets.labels import LabelReader, Labels

E0_FILE = "e0.json"
# Å; a periodic frame of one atom is a crystal unless its images are farther apart than any cutoff.
_ISOLATION = 8.0
_NAMES = ("isolatedatom", "isolated_atom")


@dataclass
class IsolatedAtoms:
    """Energies of isolated atoms."""

    energies: dict[str, float] = field(default_factory=dict)
    """eV, by symbol."""

    def take(
        self, frame: Frame, labels: Labels, notes: LabelReader, charge: float = 0.0, trained: bool = False
    ) -> bool:
        """Take a frame if it is an isolated atom.

        Parameters
        ----------
        frame : Frame
            As read.
        labels : Labels
            Its labels.
        notes : LabelReader
            Hears of what is strange.
        charge : float
            Total charge of the frame, e; the energy of an ion is not E0.
        trained : bool
            Whether the energies that are trained depend on the charge: ions are then training data.

        Returns
        -------
        bool
            Whether it is one, and must not be trained on.
        """
        named = frame.config_type.lower() in _NAMES
        if frame.natoms != 1:
            if named:
                notes.note(
                    frame, "config_type=IsolatedAtom, but several atoms: treated as any other structure"
                )
            return False
        if not named and any(frame.pbc) and not _far_apart(frame):
            return False  # the primitive cell of a crystal
        symbol = chemical_symbols[int(frame.numbers[0])]
        if charge:
            fate = "trained on" if trained else "left out"
            notes.note(frame, f"isolated {symbol} with charge {charge:+g} e: its energy is not E0, {fate}")
            return not trained
        if labels.energy is None:
            notes.note(frame, "isolated atom without energy: left out")
            return True
        before = self.energies.get(symbol)
        if before is not None and abs(before - labels.energy) > 1e-6:
            notes.note(
                frame,
                f"a second energy of isolated {symbol} ({before} eV before): the last one counts, as in native MACE",
            )
        self.energies[symbol] = labels.energy
        return True


def _far_apart(frame: Frame) -> bool:
    vectors = frame.cell[[k for k in range(3) if frame.pbc[k]]]
    if not np.all(np.linalg.norm(vectors, axis=1) > 1e-6):
        return False
    # Distances between neighbouring lattice planes are at most as long as the shortest lattice vector.
    inverse = np.linalg.pinv(vectors)
    return bool((1.0 / np.linalg.norm(inverse, axis=0)).min() > _ISOLATION)
