r"""From the features of frames to the posterior of the last layer's weights: last-layer prediction rigidity (LLPR).

With the features :math:`f` of a frame (derivatives of its energy by the last layer's weights) and :math:`C = \sum f f^T` over the
training data, the variance of an energy is :math:`\alpha^2 f^T (C + \varsigma^2)^{-1} f`. On frames with known errors :math:`e_i`,
whose variances with :math:`\alpha = 1` are :math:`q_i`, the likelihood is largest at :math:`\alpha^2 = \langle e_i^2 / q_i \rangle`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Of the largest eigenvalue: what is tried for the regularisation.
_RATIOS = 10.0 ** np.arange(-12.0, 0.5, 0.5)
# Of the logarithm of the likelihood per frame. Frames like those of the training hardly tell regularisations apart, but a large one
# says little about others: of those that are about as likely the smallest is taken.
_INDIFFERENT = 0.05
DRAWS = 8


@dataclass
class Covariance:
    """Sum over frames of the products of their features.

    Parameters
    ----------
    size : int
        Number of features.
    """

    size: int

    def __post_init__(self) -> None:
        self.matrix = np.zeros((self.size, self.size))
        self.frames = 0
        self.atoms = 0

    def add(self, features: np.ndarray, natoms: int) -> None:
        """Add frames of `natoms` atoms, shape (nf, size), eV."""
        if not np.isfinite(features).all():
            raise ValueError(
                "the features of a frame are not finite: the model gives no number for it. Look at the frame."
            )
        self.matrix += features.T @ features
        self.frames += len(features)
        self.atoms += natoms * len(features)


class Calibration(NamedTuple):
    """What frames with known errors decide."""

    alpha: float
    """Factor of standard deviations."""
    ridge: float
    """What is added to the diagonal of the covariance, eV²."""


def calibrated(
    covariance: np.ndarray, features: np.ndarray, errors: np.ndarray, ridge: float | None = None
) -> Calibration:
    r"""Choose factor and regularisation by the likelihood of errors.

    Parameters
    ----------
    covariance : numpy.ndarray
        :math:`C`, eV², shape (n, n).
    features : numpy.ndarray
        Of the frames that calibrate, eV, shape (nf, n).
    errors : numpy.ndarray
        Reference minus prediction, eV, shape (nf,).
    ridge : float, optional
        Regularisation :math:`\varsigma^2` in units of the largest eigenvalue of `covariance`; by default the
        smallest of a grid that is about as likely as the likeliest.

    Returns
    -------
    Calibration
    """
    values, vectors = np.linalg.eigh(covariance)
    values = values.clip(min=0.0)
    squares = (features @ vectors) ** 2
    tried: list[tuple[float, Calibration]] = []
    for ratio in _RATIOS if ridge is None else [ridge]:
        added = float(ratio * values[-1])
        variance = (squares / (values + added)).sum(axis=1)
        alpha = float(np.sqrt(np.mean(errors**2 / variance)))
        if np.isfinite(alpha) and alpha > 0.0:
            # Of a Gaussian, without constants; the squared errors give a constant at the best alpha.
            cost = float(np.log(variance).mean() / 2 + np.log(alpha))
            tried.append((cost, Calibration(alpha, added)))
    if not tried:
        raise ValueError(
            "the uncertainty cannot be calibrated: all errors, or all features, vanish. Calibrate on frames with energies "
            "of the reference method, which the model has not been trained on."
        )
    limit = min(cost for cost, _ in tried) + _INDIFFERENT
    return next(found for cost, found in tried if cost <= limit)


def posterior_factor(covariance: np.ndarray, calibration: Calibration) -> np.ndarray:
    r"""Matrix :math:`A` with :math:`A^T A = \alpha^2 (C + \varsigma^2)^{-1}`, shape (n, n)."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(
        (calibration.alpha / np.sqrt(values.clip(min=0.0) + calibration.ridge))[:, None] * vectors.T
    )


def drawn_members(factor: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Draws from the posterior of :func:`posterior_factor`, changes of the weights, shape (number, n)."""
    normal = np.random.default_rng(seed).standard_normal((number, len(factor)))
    return np.asarray(normal @ factor)
