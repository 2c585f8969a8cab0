"""The posterior of a model's last layer from frames with labels: features in one pass, then calibration on other frames."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.labels import LabelReader
from deepmd_gnn.tools.alike_frames import evaluated_alike, inputs_of
from deepmd_gnn.tools.evaluation import quiet
from deepmd_gnn.tools.quantities import quantities_of_potential
from deepmd_gnn.tools.rigidity import DRAWS, Covariance, calibrated, drawn_members, posterior_factor
from deepmd_gnn.tools.uncertainty import last_layer_features, network_of, uncertainty

# Every so many frames of the training data calibrate where there are no others.
HELD_OUT = 10
# Frames that calibrate forces: each costs as many backward passes as there are draws.
_FORCE_FRAMES = 200


@dataclass
class Posterior:
    """What is stored with a model, see :class:`~deepmd_gnn.nn.uncertainty.LastLayerUncertainty`."""

    factor: np.ndarray
    members: np.ndarray
    force_scale: float
    description: dict[str, Any]
    """Numbers of frames, calibration and where it is from; plain values."""


@dataclass
class PosteriorMaker:
    """Makes the posterior of one model.

    Parameters
    ----------
    potential : deepmd.infer.DeepPot
        Of the checkpoint.
    labels : LabelReader
        Reads the labels of frames.
    frames : int
        Of a batch, at most.
    ridge : float, optional
        See :func:`~deepmd_gnn.tools.rigidity.calibrated`.
    draws : int
        Of the posterior, for forces.
    seed : int
        Of the draws.
    """

    potential: Any
    labels: LabelReader = field(default_factory=LabelReader)
    frames: int = 64
    ridge: float | None = None
    draws: int = DRAWS
    seed: int = 1

    def __post_init__(self) -> None:
        self.model = network_of(self.potential)
        self.quantities = quantities_of_potential(self.potential)
        self.covariance = Covariance(self.model.get_last_layer_size())

    def add(self, frames: Iterable[Frame]) -> None:
        """Accumulate the features of training frames; labels are not read."""
        for frame, features in evaluated_alike(frames, self._features, self.frames, "refuse"):
            if features is not None:
                self.covariance.add(features[None], frame.natoms)

    def add_and_hold_out(self, frames: Iterable[Frame]) -> list[Frame]:
        """:meth:`add` without every tenth frame that has an energy, which are returned."""
        held: list[Frame] = []

        def others() -> Iterable[Frame]:
            for place, frame in enumerate(frames):
                if place % HELD_OUT == HELD_OUT - 1 and self.labels.read(frame).energy is not None:
                    held.append(frame)
                else:
                    yield frame

        self.add(others())
        return held

    def _features(self, frames: list[Frame]) -> list[np.ndarray]:
        inputs = inputs_of(frames, self.potential, self.quantities)
        with quiet():
            return list(last_layer_features(self.potential, *inputs.arrays, **inputs.fparam).sum(axis=1))

    def finish(self, frames: Iterable[Frame], held_out: bool) -> Posterior:
        """Calibrate, and install the posterior in the loaded model.

        Parameters
        ----------
        frames : Iterable[Frame]
            With energies of the reference method.
        held_out : bool
            Whether the model has been trained on them; only noted.

        Returns
        -------
        Posterior
        """
        if self.covariance.frames == 0:
            raise DataError("no frames to accumulate features from.")
        labelled = []
        features, errors = [], []
        for frame, found in evaluated_alike(frames, self._errors, self.frames, "refuse"):
            if found is not None and np.isfinite(found[1]):
                labelled.append(frame)
                features.append(found[0])
                errors.append(found[1])
        if len(errors) < 2:
            raise DataError(
                f"{len(errors)} frames with a reference energy to calibrate the uncertainty on, but it needs at least 2. Give more with --valid."
            )
        calibration = calibrated(self.covariance.matrix, np.stack(features), np.array(errors), self.ridge)
        factor = posterior_factor(self.covariance.matrix, calibration)
        members = drawn_members(factor, self.draws, self.seed)
        self._install(factor, members, 1.0)
        scale, force_frames = self._force_scale(labelled)
        self._install(factor, members, scale)
        description = {
            "method": "LLPR",
            "features": self.covariance.size,
            "frames": self.covariance.frames,
            "atoms": self.covariance.atoms,
            "alpha": calibration.alpha,
            "regularisation": calibration.ridge,
            "calibrated_on": "training frames" if held_out else "validation frames",
            "calibration_frames": len(errors),
            "force_frames": force_frames,
            "force_scale": scale,
            "draws": self.draws,
            "seed": self.seed,
        }
        return Posterior(factor, members, scale, description)

    def _errors(self, frames: list[Frame]) -> list[tuple[np.ndarray, float]]:
        inputs = inputs_of(frames, self.potential, self.quantities)
        with quiet():
            energies = np.asarray(self.potential.eval(*inputs.arrays, **inputs.fparam)[0], dtype=float)
        known = [self.labels.read(frame).energy for frame in frames]
        errors = [np.nan if e is None else e - float(p) for e, p in zip(known, energies[:, 0], strict=True)]
        return list(zip(self._features(frames), errors, strict=True))

    def _force_scale(self, frames: list[Frame]) -> tuple[float, int]:
        """Calibrate the forces, with the same closed form; 1 where there are none."""
        with_forces = [frame for frame in frames if self.labels.read(frame).forces is not None]
        ratios = [
            found
            for _, found in evaluated_alike(
                with_forces[:_FORCE_FRAMES], self._force_ratios, self.frames, "refuse"
            )
            if found is not None
        ]
        if not ratios:
            return 1.0, 0
        return float(np.sqrt(np.concatenate(ratios).mean())), len(ratios)

    def _force_ratios(self, frames: list[Frame]) -> list[np.ndarray]:
        """Squares of the errors of atoms' forces in units of their variance."""
        inputs = inputs_of(frames, self.potential, self.quantities)
        with quiet():
            predicted = np.asarray(self.potential.eval(*inputs.arrays, **inputs.fparam)[1], dtype=float)
            found = uncertainty(self.potential, *inputs.arrays, inputs.fparam.get("fparam"), forces=True)
        deviations = found["force_std"]
        ratios = []
        for frame, forces, deviation in zip(frames, predicted, deviations[..., 0], strict=True):
            error = np.linalg.norm(np.asarray(self.labels.read(frame).forces) - forces, axis=1)
            sure = deviation <= 0.0  # a lone atom has no force, whatever the weights
            ratios.append((error[~sure] / deviation[~sure]) ** 2)
        return ratios

    def _install(self, factor: np.ndarray, members: np.ndarray, force_scale: float) -> None:
        device = self.model.out_bias.device
        self.model.uncertainty.factor = torch.as_tensor(factor, dtype=torch.float64, device=device)
        self.model.uncertainty.members = torch.as_tensor(members, dtype=torch.float64, device=device)
        self.model.uncertainty.force_scale = torch.tensor(force_scale, dtype=torch.float64, device=device)
