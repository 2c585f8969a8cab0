"""Multi-task training: which parts of two models are one."""

from collections.abc import Iterator
from typing import Any

import torch

from deepmd_gnn.config.networks import config_class
from deepmd_gnn.config.sections import sections_of
from deepmd_gnn.files.tensor_names import NETWORK, model_name
from deepmd_gnn.host.interface import HostInterface

# Not part of the architecture: where they differ the network is the same.
_FREE = ("sel", "seed", "freeze", "adapters", "enable_cueq", "atomic_energies", "scale")


class Part:
    """A part of a model under the host's name, for its multi-task trainer.

    Parameters
    ----------
    model : HostInterface
        The model.
    """

    section: str
    statistic: str

    def __init__(self, model: HostInterface) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        """Torch's tools for sharded models walk to a tensor by its name in the checkpoint."""
        if name.startswith("_") or name == "model":
            raise AttributeError(name)
        ours = model_name(f"{self.section}.{name}")
        inner = ours.removeprefix(NETWORK)
        return getattr(self.model if ours == inner else self.model.energy_model, inner)

    def share_params(
        self,
        base: "Part",
        shared_level: int,
        model_prob: float | None = None,  # noqa: ARG002 - the host's signature
        protection: float | None = None,  # noqa: ARG002
        resume: bool = False,
    ) -> None:
        """Use the weights of another model's part from now on: the same tensors, not copies.

        Parameters
        ----------
        base : Part
            Whose weights stay.
        shared_level : int
            0: everything.
        model_prob, protection : float, optional
            Not used: statistics are weighted by the amount of data.
        resume : bool
            Whether the statistics come from a checkpoint, so that they are not merged.

        Raises
        ------
        ValueError
            If the level is not 0 or the models differ in elements or architecture.
        """
        if int(shared_level) != 0:
            raise ValueError(
                f"{self.model.type_name} model: '{self.section}' is shared at level {shared_level}, but only level 0 "
                "(the whole section) is possible."
            )
        self._check_same(base)
        if any(getattr(part.model, "adapters", None) is not None for part in (self, base)):
            raise ValueError(
                f"{self.model.type_name} model: adapters ('lora') are for one task; '{self.section}' cannot be shared. Leave them out."
            )
        ours, theirs = self.model.energy_model, base.model.energy_model
        if not resume:
            self._merge_statistics(base)
        for name in self.modules:
            setattr(ours, name, getattr(theirs, name))
        setattr(ours, self.statistic, getattr(theirs, self.statistic))

    def _check_same(self, base: "Part") -> None:
        models = (self.model, base.model)
        if models[0].type_map != models[1].type_map:
            raise ValueError(
                f"{self.model.type_name} model: '{self.section}' cannot be shared between type maps {models[1].type_map} "
                f"and {models[0].type_map}."
            )
        first, second = (vars(model.config) for model in models)
        readout = (
            sections_of(config_class(self.model.type_name))["fitting_net"]
            if self.section == "descriptor"
            else ()
        )
        keys = [key for key in first if key not in (*_FREE, *readout)]
        different = [
            f"{key} ({second[key]!r} and {first[key]!r})" for key in keys if first[key] != second[key]
        ]
        if different:
            raise ValueError(
                f"{self.model.type_name} model: '{self.section}' is shared, but the models differ in {', '.join(different)}. "
                "Write these keys into the shared section only."
            )

    def _merge_statistics(self, base: "Part") -> None:
        """The statistic over the data of both: sums of what was counted, so that the order does not matter."""
        ours, theirs = (part.model.counted.get(self.statistic) for part in (self, base))
        if ours is None or theirs is None:  # given, or from a checkpoint
            return
        merged = [a + b for a, b in zip(ours, theirs, strict=True)]
        base.model.counted[self.statistic] = merged
        if merged[1] > 0:
            getattr(base.model.energy_model, self.statistic).fill_(self.value(*merged))

    @property
    def modules(self) -> list[str]:
        """Names of the network's parts in this section, see :class:`~deepmd_gnn.nn.network.EnergyNetwork`."""
        reads = self.section == "fitting_net"
        names = [name for name, _ in self.model.energy_model.named_children()]
        return [
            name
            for name in names
            if name.startswith(("readouts", "embedding_readout", "partial_charges")) == reads
        ]

    @staticmethod
    def value(total: float, number: float) -> float:
        """The statistic of sums."""
        return total / number

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The host tells by the first parameter whether two models share."""
        for name in self.modules:
            for inner, parameter in getattr(self.model.energy_model, name).named_parameters():
                yield f"{name}.{inner}", parameter


class Descriptor(Part):
    """Everything before the readouts: what the host calls a descriptor."""

    section = "descriptor"
    statistic = "avg_num_neighbors"


class FittingNet(Part):
    """Readouts and scale: what the host calls a fitting network. E0 always belongs to one model."""

    section = "fitting_net"
    statistic = "scale"

    @staticmethod
    def value(total: float, number: float) -> float:
        """Root mean square."""
        return float((total / number) ** 0.5)

    def named_children(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """The host tells by the first child whether two models share."""
        for name in self.modules:
            yield name, getattr(self.model.energy_model, name)
