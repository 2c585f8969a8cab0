"""Quantities of a whole frame (charge, spin): the host's frame parameters ``fparam``, one column for each of the option ``embeddings``.

The host has two inputs for them. ``charge_spin`` is for exactly two numbers and fixed during a run of LAMMPS; ``fparam`` has any
number of columns, comes from ``fparam.npy``, ``DeepPot.eval(fparam=…)``, ``atoms.info["fparam"]`` and ``pair_style deepmd … fparam``,
has defaults in every kind of file, and in LAMMPS may come from a compute or a fix. So it is ``fparam``.
"""

import logging
import warnings
from typing import Any, Final

import numpy as np
import torch

from deepmd_gnn.config.embeddings import Feature
from deepmd_gnn.kernels.cpu.input_check import checked_values, checks_input

log = logging.getLogger("deepmd.deepmd_gnn")


class Defaults(list[float]):
    """A list, as the host writes it into files, that its trainer can also take for a tensor."""

    def cpu(self) -> "Defaults":
        """It has no device."""
        return self

    def numpy(self) -> np.ndarray:
        """As an array, shape (nquantity,)."""
        return np.array(self, dtype=np.float64)


class FrameValues(torch.nn.Module):
    """Checks frame parameters and fills in defaults; a module without tensors, for TorchScript.

    Parameters
    ----------
    features : list[Feature]
        The quantities in the order of the columns; may be empty.
    """

    number: Final[int]
    has_defaults: Final[bool]

    def __init__(self, features: list[Feature]) -> None:
        super().__init__()
        self.number = len(features)
        self.has_defaults = bool(features) and all(feature.default is not None for feature in features)
        # TorchScript cannot tell the type of an empty list.
        columns = features or [Feature("", "continuous", 0, 0, 1, True, None, "")]
        self.names = [feature.name for feature in columns]
        self.allowed = [feature.allowed for feature in columns]
        self.stand_ins = [feature.stand_in for feature in columns]
        self.classes = [feature.num_classes for feature in columns]
        self.offsets = [feature.offset for feature in columns]
        self.told = False

    def anything(self, device: torch.device) -> torch.Tensor:
        """Values of a frame where any will do, float64, shape (1, nquantity)."""
        # One by one: TorchScript rounds the numbers of a list to float32.
        columns = [torch.zeros(1, 0, dtype=torch.float64, device=device)]
        for column in range(self.number):
            columns.append(torch.full([1, 1], self.stand_ins[column], dtype=torch.float64, device=device))
        return torch.cat(columns, dim=1)

    def forward(self, fparam: torch.Tensor | None, nframe: int, device: torch.device) -> torch.Tensor:
        """Values of frames.

        Parameters
        ----------
        fparam : torch.Tensor, optional
            Shape (nframe, nquantity) or of as many numbers; None: the defaults.
        nframe : int
            Frames.
        device : torch.device
            Where the result shall be.

        Returns
        -------
        torch.Tensor
            float64, shape (nframe, nquantity).

        Raises
        ------
        ValueError
            If a quantity has no default and no value, or a value it cannot have.
        """
        if fparam is None:
            if not self.has_defaults:
                raise ValueError(
                    f"mace model: the energy depends on {self.spelled()}, and no values were given. Give them as fparam "
                    "(fparam.npy, eval(..., fparam=...), pair_style deepmd model fparam ...), in this order."
                )
            if not self.told:
                self.told = True
                self.tell()
            return self.anything(device).expand(nframe, self.number)
        values = fparam.to(device=device, dtype=torch.float64)
        if values.numel() == self.number and nframe > 1:
            values = values.reshape(1, self.number).expand(nframe, self.number)
        if values.numel() != nframe * self.number:
            raise ValueError(
                f"mace model: fparam has {values.numel()} values for {nframe} frames, but each frame needs {self.number}: "
                f"{self.spelled()}, in this order."
            )
        values = values.reshape(nframe, self.number)
        self.check(values)
        return values

    def spelled(self) -> str:
        """Names of the quantities."""
        return ", ".join(self.names[: self.number])

    def check(self, values: torch.Tensor) -> None:
        """Refuse values that a quantity cannot have, shape (nframe, nquantity)."""
        for column in range(self.number):
            good = torch.isfinite(values[:, column])
            if self.classes[column] > 0:
                place = values[:, column] + self.offsets[column]
                good = good & (place == torch.round(place)) & (place >= 0) & (place < self.classes[column])
            if not bool(good.all()):
                frame = int(torch.nonzero(torch.logical_not(good))[0, 0])
                raise ValueError(
                    f"mace model: {self.names[column]} is {float(values[frame, column])} in frame {frame} (column {column} of "
                    f"fparam, counted from 0), but must be {self.allowed[column]}."
                )

    def tell(self) -> None:
        """Say that the defaults are used."""
        text = "mace model: no fparam was given, so frames have the defaults: "
        for column in range(self.number):
            text = text + ("" if column == 0 else ", ") + f"{self.names[column]} {self.stand_ins[column]}"
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            warnings.warn(text)  # noqa: B028 - TorchScript
        else:
            log_warning(text)

    def of_edges(self, fparam: torch.Tensor | None, nframe: int, device: torch.device) -> torch.Tensor:
        """:meth:`forward` while a program is made: one for CPUs checks when it runs, in others bad values give NaN."""
        if fparam is None:
            return self.anything(device).expand(nframe, self.number)
        values = fparam.to(torch.float64).reshape(nframe, self.number)
        return checked_values(values.contiguous(), *self.rules()) if checks_input() else values

    @torch.jit.unused
    def rules(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What :func:`~deepmd_gnn.kernels.cpu.input_check.checked_values` has to know."""
        rows, text = [], b""
        for column in range(self.number):
            least = -self.offsets[column]
            standard = self.stand_ins[column] if self.has_defaults else float("nan")
            rows.append(
                [
                    float(self.classes[column] > 0),
                    float(least),
                    float(self.classes[column] - 1 + least),
                    standard,
                ]
            )
            text += f"{self.names[column]}\0{self.allowed[column]}\0".encode()
        return torch.tensor(rows, dtype=torch.float64), torch.tensor(list(text), dtype=torch.uint8)


@torch.jit.ignore
def log_warning(text: str) -> None:
    """Write into the host's log; nobody scripts this."""
    log.warning(text)


def frame_features(model: Any) -> list[Feature]:
    """Quantities that the energy of a model depends on; networks other than MACE have none."""
    return list(getattr(model.config, "quantities", []))
