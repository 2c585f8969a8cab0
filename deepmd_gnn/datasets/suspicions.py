"""What is probably wrong in data: duplicates, units, atoms on top of each other."""

import hashlib
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from deepmd_gnn.datasets.distances import CLOSEST
from deepmd_gnn.datasets.frames import Frame
from deepmd_gnn.datasets.labels import Labels

LARGEST_FORCE = 200.0  # eV/Å, far above what a first-principles calculation of a sensible structure gives
LARGEST_STRESS = 1.0  # eV/Å³, 160 GPa
# Energies over those of neutral atoms with all their electrons, which no calculation is much below; of heavy atoms relativity
# adds a tenth.
_DEEPEST = 1.12
_HARTREE = 27.211386  # eV
_LISTED = 5
_SMALL_STEP = 0.5  # Å: the energy between two frames is then about the work of the mean force
_PAIRS = 20
# Where a trajectory was shuffled, or a crystal displaced at random: how many frames are compared with how many before them.
_COMPARED, _EARLIER = 1000, 16
_CORRELATION = 0.8  # of work and energies of such pairs, below which they say nothing
# Scatter of the energies of one composition over that of forces times 0.1 Å; molecular dynamics has about 0.2.
_SCATTER = (0.002, 50.0)


@dataclass
class Suspicion:
    """One kind of doubt, and which frames it is about."""

    sentence: str
    count: int = 0
    frames: list[str] = field(default_factory=list)
    """The first few."""

    def add(self, where: str) -> None:
        """Count a frame."""
        self.count += 1
        if len(self.frames) < _LISTED:
            self.frames.append(where)


class Inspector:
    """Looks at frame after frame; keeps a digest of each, not its atoms."""

    def __init__(self) -> None:
        self.found: dict[str, Suspicion] = {}
        self._seen: dict[bytes, tuple[str, float | None]] = {}
        self.digest = b""
        """Of the last frame; equal for equal structures."""
        self._earlier: deque[tuple[Frame, Labels]] = deque(maxlen=_EARLIER)
        self._slopes: list[float] = []
        self._pairs: list[tuple[float, float]] = []
        """Of frames that do not follow each other, the work of the mean force and the difference of energies, eV."""
        self._compared = 0
        self._force_sum, self._force_count = 0.0, 0
        self._per_atom: list[tuple[int, float]] = []
        # By composition: frames, sums of energies, of their squares (both from the first one), of squared forces, and atoms.
        self._scatter: dict[bytes, list[float]] = {}

    def inspect(self, frame: Frame, labels: Labels, distance: float | None = None) -> set[str]:
        """Look at a frame.

        Parameters
        ----------
        frame : Frame
            Periodic in all directions or in none.
        labels : Labels
            Its labels.
        distance : float, optional
            Its :func:`~deepmd_gnn.datasets.distances.shortest_distance`, Å.

        Returns
        -------
        set[str]
            "duplicates", "overlaps" or "forces", if it is one of these.
        """
        kinds = set()
        if self._is_duplicate(frame, labels):
            kinds.add("duplicates")
        if distance is not None:
            self._add("overlaps", f"atoms closer than {CLOSEST} Å", f"{frame.where} ({distance:.2g} Å)")
            kinds.add("overlaps")
        if labels.forces is not None:
            largest = float(np.abs(labels.forces).max(initial=0.0))
            self._force_sum += float((labels.forces**2).sum())
            self._force_count += labels.forces.size
            if largest > LARGEST_FORCE:
                sentence = (
                    f"forces above {LARGEST_FORCE:g} eV/Å: another unit, or a calculation that went wrong"
                )
                self._add("forces", sentence, f"{frame.where} ({largest:.3g} eV/Å)")
                kinds.add("forces")
        if labels.virial is not None:
            stress = float(np.abs(labels.virial).max()) / abs(float(np.linalg.det(frame.cell)))
            if stress > LARGEST_STRESS:
                sentence = f"stress above {LARGEST_STRESS:g} eV/Å³ (160 GPa): GPa or kbar instead of eV/Å³?"
                self._add("stress", sentence, f"{frame.where} ({stress:.3g} eV/Å³)")
        self._compare_with_earlier(frame, labels)
        if labels.energy is not None:
            self._look_at_depth(frame, labels.energy)
            self._per_atom.append((frame.natoms, labels.energy))
            if labels.forces is not None:
                first = [0.0, 0.0, 0.0, 0.0, float(frame.natoms), labels.energy]
                sums = self._scatter.setdefault(frame.numbers.tobytes(), first)
                energy = labels.energy - sums[5]
                for place, value in enumerate((1.0, energy, energy**2, float((labels.forces**2).sum()))):
                    sums[place] += value
        return kinds

    def _look_at_depth(self, frame: Frame, energy: float) -> None:
        least = all_electron_energy(frame.numbers)
        if energy < _DEEPEST * least:
            sentence = "energies below those of the atoms with all their electrons: another unit than eV, such as meV, or not of one frame?"
            self._add("depth", sentence, f"{frame.where} ({energy:.4g} eV, the atoms have {least:.4g} eV)")

    def _add(self, kind: str, sentence: str, where: str) -> None:
        self.found.setdefault(kind, Suspicion(sentence)).add(where)

    def _is_duplicate(self, frame: Frame, labels: Labels) -> bool:
        digest = hashlib.blake2b(frame.numbers.tobytes(), digest_size=16)
        digest.update((np.round(frame.positions, 5) + 0.0).tobytes())
        if any(frame.pbc):
            digest.update((np.round(frame.cell, 5) + 0.0).tobytes())
        digest.update(np.array(labels.values).tobytes())
        self.digest = digest.digest()
        before = self._seen.setdefault(self.digest, (frame.where, labels.energy))
        if before[0] == frame.where:
            return False
        self._add("duplicates", "the same structure as another frame", f"{frame.where} (as {before[0]})")
        energies = (before[1], labels.energy)
        if None not in energies and abs(energies[0] - energies[1]) > 1e-4 * frame.natoms:  # type: ignore[operator]
            self._add(
                "contradictions",
                "the same structure with another energy",
                f"{frame.where} ({energies[1]} eV; {before[0]}: {energies[0]} eV)",
            )
        return True

    def _compare_with_earlier(self, frame: Frame, labels: Labels) -> None:
        """Two frames close to each other, such as of a trajectory: the energy changes by minus the work of the force."""
        if labels.forces is None or labels.energy is None:
            self._earlier.clear()
            return
        for place, (other, before) in enumerate(reversed(self._earlier)):
            if place and self._compared >= _COMPARED:
                break
            step = frame.positions - other.positions if _comparable(frame, other) else None
            if step is None or np.abs(step).max() > _SMALL_STEP:
                continue
            work = -float((step * (labels.forces + before.forces)).sum()) / 2
            difference = labels.energy - before.energy  # type: ignore[operator]  # frames without are not kept
            if place:
                self._pairs.append((work, difference))
            # Only where the force is about the same at both ends does the mean of one pair say something.
            elif abs(float((step * (labels.forces - before.forces)).sum())) < abs(work):
                self._slopes.append(difference / work)
        self._compared += 1
        self._earlier.append((frame, labels))

    def _slope(self) -> float | None:
        """Change of energy over the work of the force, if frames are close enough to say."""
        if len(self._slopes) >= _PAIRS:
            return float(np.median(self._slopes))
        if len(self._pairs) < _PAIRS:
            return None
        work, difference = np.array(self._pairs).T
        both = float(np.sqrt((work**2).sum() * (difference**2).sum()))
        along = float((work * difference).sum())
        return along / float((work**2).sum()) if both and abs(along) > _CORRELATION * both else None

    def conclude(self) -> list[Suspicion]:
        """Judge all frames together.

        Returns
        -------
        list[Suspicion]
        """
        found = list(self.found.values())
        if self._force_count:
            rms = (self._force_sum / self._force_count) ** 0.5
            if rms > 20:
                found.append(
                    Suspicion(
                        f"the root mean square of the force components is {rms:.3g} eV/Å, usual are 0.1 to 5: are they in eV/Å?"
                    )
                )
        slope = self._slope()
        found += self._judge_scatter() if slope is None else self._judge_slope(slope)
        if len({natoms for natoms, _ in self._per_atom}) > 1:
            found += self._judge_sizes()
        return found

    def _judge_slope(self, slope: float) -> list[Suspicion]:
        if 0.5 < slope < 2:
            return []
        sizes = {natoms for natoms, _ in self._per_atom}
        guesses = {
            -1.0: "do the forces have the wrong sign (gradients)?",
            1000.0: "energies in meV?",
            27.2114: "energies in Hartree?" if slope < 1 else "forces in Hartree/Å?",
            51.422: "forces in Hartree/Bohr?",
            1 / 27.2114: "energies in Hartree?",
            23.06: "energies in kcal/mol?",
            1 / 23.06: "forces in kcal/mol/Å?",
            96.485: "energies in kJ/mol?",
        }
        for natoms in sizes:
            guesses |= {
                1 / natoms: "energies per atom instead of per frame?",
                1000 / natoms: "energies per atom in meV?",
            }
        # The slope is known to some ten per cent, and 1000/natoms may be close to the factor of a unit: all that fit, the best first.
        errors = {value: abs(slope / value - 1) for value in guesses}
        meanings = [guesses[value] for value in sorted(errors, key=errors.__getitem__) if errors[value] < 0.3]
        meaning = " ".join(dict.fromkeys(meanings)) or "do both have the units eV and eV/Å?"
        return [
            Suspicion(
                f"between frames close to each other the energy changes by {slope:.3g} times the work of the forces: {meaning}"
            )
        ]

    def _judge_scatter(self) -> list[Suspicion]:
        """Without neighbouring frames: energies of one composition scatter about as forces make them."""
        ratios = []
        for count, total, squares, forces, _, _ in self._scatter.values():
            if count >= _PAIRS and forces > 0:
                variance = max(squares / count - (total / count) ** 2, 0.0)
                ratios.append((variance / (forces / count)) ** 0.5 / 0.1)
        if not ratios or _SCATTER[0] < float(np.median(ratios)) < _SCATTER[1]:
            return []
        return [
            Suspicion(
                f"energies of one composition scatter {float(np.median(ratios)):.3g} times as much as forces times 0.1 Å (0.1 to 5 is "
                "usual): are they in eV and eV/Å, and of whole frames?"
            )
        ]

    def _judge_sizes(self) -> list[Suspicion]:
        """Energies of frames grow with the number of atoms."""
        natoms, energies = (np.array(one, dtype=float) for one in zip(*self._per_atom, strict=True))
        if natoms.max() < 2 * natoms.min() or np.abs(energies).mean() < 1e-6:
            return []
        size, energy = np.log(natoms), np.log(np.abs(energies) + 1e-12)
        exponent = float(np.polyfit(size, energy, 1)[0])
        if exponent < 0.2:
            return [
                Suspicion(
                    f"energies do not grow with the number of atoms ({int(natoms.min())} to {int(natoms.max())}): are they "
                    "per atom, or binding energies?"
                )
            ]
        return []


def all_electron_energy(numbers: np.ndarray) -> float:
    """Energy of neutral atoms with all their electrons, nonrelativistic, to some per cent.

    The statistical model of J. Schwinger, Phys. Rev. A 24, 2353 (1981).

    Parameters
    ----------
    numbers : numpy.ndarray
        Atomic numbers, shape (natom,).

    Returns
    -------
    float
        eV, their sum.
    """
    z = np.asarray(numbers, dtype=float)
    return _HARTREE * float((-0.768745 * z ** (7 / 3) + 0.5 * z**2 - 0.2699 * z ** (5 / 3)).sum())


def _comparable(frame: Frame, other: Frame) -> bool:
    """Whether two frames have the same atoms in the same cell."""
    return np.array_equal(frame.numbers, other.numbers) and np.array_equal(frame.cell, other.cell)
