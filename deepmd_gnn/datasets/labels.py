"""Energies, forces and virials of a frame, under the names that users of MACE, ASE and others give them.

Signs: stress as ASE and MACE have it, σ = (1/V) dE/dε; virial as DeePMD-kit and MACE have it, −dE/dε = −σV.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepmd_gnn.datasets.frames import DataError, Frame

# The first one that a frame has counts. Names without REF_ are also those of ASE's calculators.
DEFAULT_KEYS = {
    "energy": ("REF_energy", "energy", "free_energy"),
    "forces": ("REF_forces", "forces", "force"),
    "stress": ("REF_stress", "stress"),
    "virials": ("REF_virials", "REF_virial", "virials", "virial"),
}
# Names of MACE's weights and types.
_WEIGHTS = {
    "config_weight": ("energy", "forces", "stress", "virials"),
    **{f"config_{name}_weight": (name,) for name in DEFAULT_KEYS},
}
# Å³; cells of less are none, such as those of ASE's surfaces without vacuum.
_SMALLEST_VOLUME = 1e-6
_DISAGREEMENT = 1e-3  # of a virial and the stress beside it, relative


@dataclass(slots=True)
class Labels:
    """What is known about a frame; None where nothing is."""

    energy: float | None = None
    """eV."""
    forces: np.ndarray | None = None
    """eV/Å, shape (natom, 3)."""
    virial: np.ndarray | None = None
    """−dE/dε in eV, shape (3, 3)."""
    values: tuple[float, ...] = ()
    """Quantities that the energy depends on, such as the charge: not labels, but asked for with them."""

    @property
    def names(self) -> tuple[str, ...]:
        """DeePMD-kit's names of those that are there."""
        pairs = {"energy": self.energy, "force": self.forces, "virial": self.virial}
        return tuple(name for name, value in pairs.items() if value is not None)


@dataclass
class LabelReader:
    """Finds labels, and remembers what users should hear about.

    Parameters
    ----------
    keys : dict[str, tuple[str, ...]]
        For energy, forces, stress and virials the names to look for, in this order.
    """

    keys: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(DEFAULT_KEYS))
    used: Counter[str] = field(default_factory=Counter)
    """Frames by "energy: REF_energy"."""
    notes: Counter[str] = field(default_factory=Counter)
    """Frames by sentence."""
    unused: Counter[str] = field(default_factory=Counter)
    """Frames by names that look like labels, and are not read."""
    first: dict[str, str] = field(default_factory=dict)
    """First frame of each note."""

    def read(self, frame: Frame) -> Labels:
        """Find the labels of a frame.

        Parameters
        ----------
        frame : Frame
            As read.

        Returns
        -------
        Labels

        Raises
        ------
        DataError
            If a label has another shape than it must have.
        """
        ignored = self._weights(frame)
        labels = Labels()
        for name in self.keys:
            key, value = self._find(frame, name)
            if key is None or name in ignored:
                continue
            checked = self._checked(frame, name, key, value)
            if checked is None:
                continue
            self.used[f"{name}: {key}"] += 1
            if name == "energy":
                labels.energy = float(checked)
            elif name == "forces":
                labels.forces = checked
            else:
                self._virial(frame, labels, name, checked)
        self._note_unused(frame)
        return labels

    def note(self, frame: Frame, sentence: str) -> None:
        """Remember something about a frame."""
        self.notes[sentence] += 1
        self.first.setdefault(sentence, frame.where)

    def _find(self, frame: Frame, name: str) -> tuple[str | None, Any]:
        places = (
            (frame.arrays, frame.results) if name == "forces" else (frame.info, frame.arrays, frame.results)
        )
        for key in self.keys[name]:
            for place in places:
                if place.get(key) is not None:
                    return key, place[key]
        if name == "forces":  # a frame of one atom, or a misplaced array: an error rather than silence
            for key in self.keys[name]:
                if frame.info.get(key) is not None:
                    return key, frame.info[key]
        return None, None

    def _checked(self, frame: Frame, name: str, key: str, value: Any) -> Any:
        shapes = {"energy": ((), (1,)), "forces": ((frame.natoms, 3),)}.get(name, ((3, 3), (9,), (6,)))
        try:
            array = np.asarray(value, dtype=float)
        except (ValueError, TypeError):
            if str(value) in ("None", "nan", "NaN"):
                return None
            raise DataError(
                f"{frame.where}: {key} is {str(value)[:60]!r}, but must be {_expected(name, frame)}."
            ) from None
        if name == "forces" and frame.natoms == 1 and array.shape == (3,):
            array = array.reshape(1, 3)
        if array.shape not in shapes:
            raise DataError(
                f"{frame.where}: {key} has the shape {array.shape}, but must be {_expected(name, frame)}. "
                f"Correct the file, or name another key (--{name}-key)."
            )
        if not np.isfinite(array).all():
            self.note(frame, f"{key} is not finite: the frame counts as one without it")
            return None
        return array.reshape(-1)[0] if name == "energy" else array

    def _virial(self, frame: Frame, labels: Labels, name: str, value: np.ndarray) -> None:
        if not any(frame.pbc):
            if np.any(value):
                self.note(frame, f"{name} of a frame without periodic cell: left out")
            return
        matrix = full_matrix(value)
        volume = abs(float(np.linalg.det(frame.cell)))
        if volume < _SMALLEST_VOLUME:
            self.note(frame, f"{name} of a frame whose cell has no volume: left out")
            return
        if name == "stress":
            labels.virial = -matrix * volume
        elif labels.virial is None:
            labels.virial = matrix
        else:
            size = np.abs(matrix).max() + 1e-6 * frame.natoms
            if np.abs(matrix - labels.virial).max() > _DISAGREEMENT * size:
                self.note(
                    frame,
                    "virials and stress disagree (virials must be −stress × volume): the virials are used",
                )
            labels.virial = matrix

    def _weights(self, frame: Frame) -> set[str]:
        """Labels with a weight of zero, which are not to be learned."""
        ignored: set[str] = set()
        for key, names in _WEIGHTS.items():
            weight = frame.info.get(key)
            if weight is None or weight == 1:
                continue
            if weight == 0:
                ignored.update(names)
                self.note(
                    frame, f"{key} is 0: {' and '.join(names)} {'are' if len(names) > 1 else 'is'} left out"
                )
            else:
                self.note(
                    frame,
                    f"{key} other than 0 and 1 is not used, because the loss of DeePMD-kit has no weights of frames; "
                    "weights of folders (sys_probs) are possible, see --by-config-type",
                )
        return ignored

    def _note_unused(self, frame: Frame) -> None:
        known = {key for keys in self.keys.values() for key in keys}
        for place in (frame.info, frame.arrays, frame.results):
            for key in place:
                if key not in known and key not in _WEIGHTS and _looks_like_label(key):
                    self.unused[key] += 1


def chosen_keys(arguments: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Names to look for: the user's where there are some, else :data:`DEFAULT_KEYS`.

    Parameters
    ----------
    arguments : dict[str, Any]
        With ``energy_key``, ``forces_key``, ``stress_key`` and ``virials_key``, which may be None.

    Returns
    -------
    dict[str, tuple[str, ...]]
        For :class:`LabelReader`.
    """
    given = {name: arguments[f"{name}_key"] for name in DEFAULT_KEYS}
    return {name: (given[name],) if given[name] else keys for name, keys in DEFAULT_KEYS.items()}


def full_matrix(value: np.ndarray) -> np.ndarray:
    """Make a matrix of nine numbers, or of six in ASE's order.

    Parameters
    ----------
    value : numpy.ndarray
        Shape (3, 3), (9,) or (6,): xx, yy, zz, yz, xz, xy.

    Returns
    -------
    numpy.ndarray
        Shape (3, 3).
    """
    if value.size == 9:
        return value.reshape(3, 3)
    xx, yy, zz, yz, xz, xy = value
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def _expected(name: str, frame: Frame) -> str:
    return {
        "energy": "one number (eV)",
        "forces": f"three numbers (eV/Å) for each of the {frame.natoms} atoms, shape {(frame.natoms, 3)}",
        "stress": "six or nine numbers (eV/Å³), shape (6,), (9,) or (3, 3)",
        "virials": "six or nine numbers (eV), shape (6,), (9,) or (3, 3)",
    }[name]


def _looks_like_label(key: str) -> bool:
    lower = key.lower()
    if lower.startswith("config_"):
        return False
    return any(word in lower for word in ("energ", "forc", "stress", "viri"))
