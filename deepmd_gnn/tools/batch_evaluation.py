"""Models on many frames of any composition, several frames at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from deepmd_gnn.config.checks import parse_irreps
from deepmd_gnn.datasets.cells import whole_periodicity
from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.labels import LabelReader
from deepmd_gnn.tools.evaluation import quiet
from deepmd_gnn.tools.quantities import frame_values, quantities_of_potential

_WINDOW = 16  # batches of which frames of the same atoms are looked for together
_MOST_ATOMS = 4096  # of a batch


@dataclass
class Prediction:
    """What models say about a frame."""

    energy: float
    """eV; mean of a committee."""
    forces: np.ndarray
    """eV/Å, shape (natom, 3); mean of a committee."""
    virial: np.ndarray | None
    """eV, shape (3, 3); None without cell."""
    atom_energies: np.ndarray | None = None
    """eV, shape (natom,)."""
    energy_deviation: float | None = None
    """Standard deviation of a committee, eV/atom."""
    force_deviation: np.ndarray | None = None
    """Of each atom, √⟨|F − ⟨F⟩|²⟩ in eV/Å, shape (natom,)."""
    descriptors: np.ndarray | None = None
    """Of the first model, shape (natom, features)."""


@dataclass
class BatchEvaluation:
    """Evaluates frames.

    Parameters
    ----------
    models : Sequence[Any]
        DeepPot of each member.
    frames : int
        Of a batch, at most.
    mixed_pbc : str
        See :func:`~deepmd_gnn.datasets.cells.whole_periodicity`.
    atom_energies : bool
        Whether they are asked for; they cost time.
    descriptors : Callable, optional
        From (coordinates, cells, types) to descriptors, shape (frames, atoms, features).
    """

    models: Sequence[Any]
    frames: int = 64
    mixed_pbc: str = "refuse"
    atom_energies: bool = False
    descriptors: Callable[..., np.ndarray] | None = None

    def __post_init__(self) -> None:
        self.defaulted = 0
        """Frames that do not say charge, spin or what else the energy depends on."""
        self.quantities = [quantities_of_potential(model) for model in self.models]
        if self.descriptors is not None and any(self.quantities):
            raise DataError(
                "descriptors of models whose energy depends on charge or spin are not written by this command; take "
                "DeepPot.eval_descriptor(..., fparam=...) of a .pt or .pth."
            )

    def __call__(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Prediction | None]]:
        """Evaluate frames, in their order.

        Parameters
        ----------
        frames : Iterable[Frame]
            Is read as far as needed.

        Yields
        ------
        Frame, Prediction
            The prediction is None where a frame is skipped.
        """
        notes = LabelReader()
        waiting = iter(frames)
        while window := list(islice(waiting, _WINDOW * self.frames)):
            results: list[Prediction | None] = [None] * len(window)
            alike: dict[tuple[bytes, bool, tuple[bool, ...]], list[tuple[int, Frame]]] = {}
            for place, frame in enumerate(window):
                whole = whole_periodicity(frame, self.mixed_pbc, notes)
                if whole is not None:
                    known = tuple(frame_values(whole.info, one) is not None for one in self.quantities)
                    self.defaulted += any(
                        bool(one) and not k for one, k in zip(self.quantities, known, strict=True)
                    )
                    key = (frame.numbers.tobytes(), any(whole.pbc), known)
                    alike.setdefault(key, []).append((place, whole))
            for members in alike.values():
                size = max(1, min(self.frames, _MOST_ATOMS // members[0][1].natoms))
                for begin in range(0, len(members), size):
                    batch = members[begin : begin + size]
                    for (place, _), result in zip(batch, self._evaluate([f for _, f in batch]), strict=True):
                        results[place] = result
            yield from zip(window, results, strict=True)

    def _evaluate(self, frames: list[Frame]) -> list[Prediction]:
        first = frames[0]
        periodic = any(first.pbc)
        coord = np.stack([frame.positions.reshape(-1) for frame in frames])
        cells = np.stack([frame.cell.reshape(-1) for frame in frames]) if periodic else None
        found = []
        for model, quantities in zip(self.models, self.quantities, strict=True):
            types = self._types(model, first)
            values = [frame_values(frame.info, quantities) for frame in frames] if quantities else []
            given = [value for value in values if value is not None]
            fparam = {"fparam": np.stack(given)} if len(given) == len(frames) else {}
            with quiet():
                results = model.eval(coord, cells, types, atomic=self.atom_energies, **fparam)[:4]
            found.append([np.asarray(one, dtype=float) for one in results])
        energies, forces, virials, *atomic = (np.stack(one) for one in zip(*found, strict=True))
        features = None
        if self.descriptors is not None:
            with quiet():
                features = self.descriptors(coord, cells, self._types(self.models[0], first))
        predictions = []
        for k, frame in enumerate(frames):
            shape = (len(self.models), frame.natoms, 3)
            members = forces[:, k].reshape(shape)
            prediction = Prediction(
                float(energies[:, k].mean()),
                members.mean(axis=0),
                virials[:, k].mean(axis=0).reshape(3, 3) if periodic else None,
                atomic[0][:, k].mean(axis=0).reshape(-1) if atomic else None,
            )
            if len(self.models) > 1:
                prediction.energy_deviation = float(energies[:, k].std()) / frame.natoms
                prediction.force_deviation = np.sqrt(members.var(axis=0).sum(axis=1))
            if features is not None:
                prediction.descriptors = features[k]
            predictions.append(prediction)
        return predictions

    @staticmethod
    def _types(model: Any, frame: Frame) -> np.ndarray:
        names = model.get_type_map()
        kinds = [chemical_symbols[number] for number in frame.numbers.tolist()]
        unknown = sorted(set(kinds) - set(names))
        if unknown:
            raise DataError(f"{frame.where}: has atoms of {', '.join(unknown)}, but the model knows only {', '.join(names)}.")  # fmt: skip
        return np.array([names.index(kind) for kind in kinds])


def invariants(features: np.ndarray, hidden_irreps: str, layers: int) -> np.ndarray:
    """Take the scalars out of node features of all layers.

    Parameters
    ----------
    features : numpy.ndarray
        Layer after layer, within a layer the irreps, shape (…, features).
    hidden_irreps : str
        Such as "16x0e + 16x1o"; scalars first.
    layers : int
        Number of layers; the last may have scalars only.

    Returns
    -------
    numpy.ndarray
        Shape (…, layers × channels).
    """
    terms = parse_irreps(hidden_irreps)
    channels = terms[0][0]
    width = sum(number * (2 * ell + 1) for number, ell, _ in terms)
    return np.concatenate([features[..., k * width : k * width + channels] for k in range(layers)], axis=-1)
