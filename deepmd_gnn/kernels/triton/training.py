"""Let a network that is trained on a GPU launch generated kernels; its weights stay where they are."""

import contextlib
import functools
import logging
import time
from collections.abc import Iterator
from typing import Any

import torch

from deepmd_gnn.kernels.cpu.mixing import mapped_linears
from deepmd_gnn.kernels.triton.support import at_once
from deepmd_gnn.kernels.triton.training_geometry import TrainedHarmonics, TrainedRadialFeatures
from deepmd_gnn.kernels.triton.training_launches import Launch
from deepmd_gnn.kernels.triton.training_mixing import TrainedLinear, trainable
from deepmd_gnn.kernels.triton.training_modules import (
    TrainedContraction,
    TrainedConvolution,
    contraction_launches,
    contraction_source,
    convolution_launches,
    convolution_source,
)

log = logging.getLogger("deepmd.deepmd_gnn")


class TrainingKernels:
    """Kernels of a network that is trained.

    Parameters
    ----------
    energy_model : MaceEnergy
        The network.
    """

    def __init__(self, energy_model: Any) -> None:
        self.place = _place(energy_model)
        dtype = str(energy_model.dtype).removeprefix("torch.")
        self.convolutions, self.contractions = [], []
        for layer, (interaction, product) in enumerate(
            zip(energy_model.interactions, energy_model.products, strict=True)
        ):
            channels = interaction.linear_up.channels
            code = convolution_source(interaction.conv_tp, channels, dtype)
            # What the first layer sends depends on the elements alone.
            self.convolutions.append(TrainedConvolution(code, channels, moving=layer > 0))
            contraction = product.symmetric_contractions
            code = contraction_source(contraction, channels, dtype)
            self.contractions.append(TrainedContraction(contraction, code))

        self.geometry = {
            "spherical_harmonics": TrainedHarmonics(),
            "radial_embedding": TrainedRadialFeatures(),
        }
        self.linears = {
            place: TrainedLinear(linear)
            for place, linear in mapped_linears(energy_model).items()
            if trainable(linear)
        }

    def compile(self, device: torch.device) -> None:
        """Compile all kernels at the same time, by launching them for an atom with one edge; Triton keeps them.

        Parameters
        ----------
        device : torch.device
            Of the network.
        """
        launches: list[Launch] = []
        for conv, contraction in zip(self.convolutions, self.contractions, strict=True):
            like, channels = contraction.matrix, conv.channels
            launches += contraction_launches(contraction.code, channels, like)
            launches += convolution_launches(conv.code, channels, like, conv.moving)
        launches += [linear.try_once for linear in self.linears.values()]

        def once(kernel: Launch) -> None:
            with torch.cuda.device(device):
                kernel()

        begin = time.monotonic()
        at_once(functools.partial(once, kernel) for kernel in launches)
        log.info(
            "mace model: training with generated Triton kernels, ready after %.0f s",
            time.monotonic() - begin,
        )

    def fits(self, energy_model: Any) -> bool:
        """Whether these are the kernels of a network: it may have got other elements, or moved to another device."""
        return self.place == _place(energy_model)

    @contextlib.contextmanager
    def installed(self, energy_model: Any, eager: bool) -> Iterator[None]:
        """Let a network launch the kernels, with derivatives with respect to its weights.

        Parameters
        ----------
        energy_model : MaceEnergy
            The network.
        eager : bool
            Whether autograd will differentiate the step; a compiler leaves out by itself what nobody reads.
        """
        blocks = zip(
            energy_model.interactions,
            energy_model.products,
            self.convolutions,
            self.contractions,
            strict=True,
        )
        swaps: list[tuple[Any, str, torch.nn.Module]] = []
        for interaction, product, conv, contraction in blocks:
            weights = contraction.reading(product.symmetric_contractions)
            swaps += [(interaction, "conv_tp", conv), (product, "symmetric_contractions", weights)]
        if eager:
            for name, module in self.geometry.items():
                swaps.append((energy_model, name, module.reading(getattr(energy_model, name))))
        for (name, layer, part), trained in self.linears.items():
            parent = getattr(energy_model, name)[layer]
            swaps.append((parent, part, trained.reading(getattr(parent, part))))
        before = [(parent, name, getattr(parent, name)) for parent, name, _ in swaps]
        try:
            for swap in swaps:
                setattr(*swap)
            yield
        finally:
            for swap in before:
                setattr(*swap)


def _place(energy_model: Any) -> tuple[int, torch.device, torch.dtype]:
    return id(energy_model), energy_model.scale.device, energy_model.dtype
