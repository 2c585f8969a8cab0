"""Models on many frames of any composition, several frames at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepmd_gnn.config.checks import parse_irreps
from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.tools.alike_frames import evaluated_alike, inputs_of
from deepmd_gnn.tools.evaluation import quiet
from deepmd_gnn.tools.quantities import frame_values, quantities_of_potential


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
    """Standard deviation of a committee, or of the model by its last layer, eV/atom."""
    force_deviation: np.ndarray | None = None
    """Of each atom, √⟨|F − ⟨F⟩|²⟩ in eV/Å, shape (natom,)."""
    atom_deviations: np.ndarray | None = None
    """Standard deviations of the atoms' energies by the last layer, eV, shape (natom,)."""
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
    deviations : Callable, optional
        From the same, and perhaps ``fparam``, to the standard deviations of :func:`~deepmd_gnn.tools.uncertainty.uncertainty`.
    """

    models: Sequence[Any]
    frames: int = 64
    mixed_pbc: str = "refuse"
    atom_energies: bool = False
    descriptors: Callable[..., np.ndarray] | None = None
    deviations: Callable[..., dict[str, np.ndarray]] | None = None

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
        yield from evaluated_alike(frames, self._evaluate, self.frames, self.mixed_pbc, self._known)

    def _known(self, frame: Frame) -> tuple[bool, ...]:
        """For each model, whether the frame says the quantities that its energy depends on."""
        known = tuple(frame_values(frame.info, one) is not None for one in self.quantities)
        self.defaulted += any(bool(one) and not k for one, k in zip(self.quantities, known, strict=True))
        return known

    def _evaluate(self, frames: list[Frame]) -> list[Prediction]:
        found = []
        for model, quantities in zip(self.models, self.quantities, strict=True):
            inputs = inputs_of(frames, model, quantities)
            with quiet():
                results = model.eval(*inputs.arrays, atomic=self.atom_energies, **inputs.fparam)[:4]
            found.append([np.asarray(one, dtype=float) for one in results])
        energies, forces, virials, *atomic = (np.stack(one) for one in zip(*found, strict=True))
        features, deviations = None, None
        first = inputs_of(frames, self.models[0], self.quantities[0])
        with quiet():
            if self.descriptors is not None:
                features = self.descriptors(*first.arrays)
            if self.deviations is not None:
                deviations = self.deviations(*first.arrays, **first.fparam)
        predictions = []
        for k, frame in enumerate(frames):
            shape = (len(self.models), frame.natoms, 3)
            members = forces[:, k].reshape(shape)
            prediction = Prediction(
                float(energies[:, k].mean()),
                members.mean(axis=0),
                virials[:, k].mean(axis=0).reshape(3, 3) if first.arrays[1] is not None else None,
                atomic[0][:, k].mean(axis=0).reshape(-1) if atomic else None,
            )
            if len(self.models) > 1:
                prediction.energy_deviation = float(energies[:, k].std()) / frame.natoms
                prediction.force_deviation = np.sqrt(members.var(axis=0).sum(axis=1))
            if features is not None:
                prediction.descriptors = features[k]
            if deviations is not None:
                prediction.energy_deviation = float(deviations["energy_std"][k, 0]) / frame.natoms
                prediction.atom_deviations = deviations["atom_energy_std"][k, :, 0]
                if "force_std" in deviations:
                    prediction.force_deviation = deviations["force_std"][k, :, 0]
            predictions.append(prediction)
        return predictions


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
