"""How predicted standard deviations compare with the errors that are found."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class ErrorBars:
    """Standard deviations of frames, and errors where a reference is known; eV/atom."""

    deviations: list[float] = field(default_factory=list)
    errors: list[float | None] = field(default_factory=list)

    def add(self, deviation: float, error: float | None) -> None:
        """Add a frame."""
        self.deviations.append(deviation)
        self.errors.append(error)

    def to_dict(self) -> dict[str, Any]:
        """Mean deviation, and with references ``rms_ratio`` (root mean square of error over deviation, 1 if calibrated) and ``spearman``."""
        found: dict[str, Any] = {"mean": float(np.mean(self.deviations)), "count": len(self.deviations)}
        # Members of a committee that are equal have no opinion.
        known = zip(self.deviations, self.errors, strict=True)
        pairs = [(d, e) for d, e in known if e is not None and d > 0.0]
        if len(pairs) > 1:
            deviations, errors = np.array(pairs).T
            found |= {"rms_ratio": rms_ratio(deviations, errors), "spearman": spearman(deviations, errors)}
        return found

    def text(self) -> str:
        """For people; empty without frames."""
        if not self.deviations:
            return ""
        found = self.to_dict()
        line = f"energy_std: mean {found['mean'] * 1e3:.3g} meV/atom"
        if "rms_ratio" in found:
            line += f", errors are {found['rms_ratio']:.2f} of it (RMS; 1 if calibrated), rank correlation {found['spearman']:.2f}"
        return line + "\n"


def rms_ratio(deviations: np.ndarray, errors: np.ndarray) -> float:
    """Root mean square of error over standard deviation, shapes (n,)."""
    return float(np.sqrt(np.mean((np.asarray(errors) / np.asarray(deviations)) ** 2)))


def spearman(deviations: np.ndarray, errors: np.ndarray) -> float:
    """Rank correlation of standard deviations and absolute errors, shapes (n,); ties have their mean rank."""
    first, second = _ranks(np.asarray(deviations)), _ranks(np.abs(errors))
    spread = first.std() * second.std()
    return (
        0.0 if spread == 0.0 else float(((first - first.mean()) * (second - second.mean())).mean() / spread)
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=float)
