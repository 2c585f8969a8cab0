r"""Low-rank adaptation (LoRA) [1]_ of linear maps: what is trained is a small change, the product of two narrow matrices.

For a matrix :math:`W` of a linear map, of a block of one between irreps, or of a radial network, the change is
:math:`(\alpha / r) A B` with :math:`A` of shape (inputs, r) and :math:`B` of shape (r, outputs), zero in the beginning.
:math:`A` mixes channels of one irrep only, so that the map stays equivariant. Weights here have unit variance (e3nn's
normalisation is outside of them), and so has :math:`A` over its rank.

References
----------
.. [1] E. J. Hu et al., ICLR 2022, arXiv:2106.09685.
"""

from typing import TYPE_CHECKING

import torch

from deepmd_gnn.config.adapters import Lora
from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.nn.energy import MaceEnergy
from deepmd_gnn.nn.gates import Affine
from deepmd_gnn.nn.linear import Linear, RadialNetwork
from deepmd_gnn.nn.readouts import BiasReadout, Readout

# Rows and columns of the matrices that a weight is made of, in their order; mostly inputs and outputs.
Blocks = list[tuple[int, int]]


def matrices_of(network: torch.nn.Module) -> dict[str, Blocks]:
    """The weights of a network that are matrices of linear maps, the same for all elements, by the names of its parameters."""
    found: dict[str, Blocks] = {}
    for name, module in network.named_modules():
        if isinstance(module, Linear) and module.ntypes == 0:
            found[f"{name}.weight"] = list(module.blocks)
        elif isinstance(module, RadialNetwork):
            for layer in module.names:
                inputs, outputs = getattr(module, layer).weight.shape
                found[f"{name}.{layer}.weight"] = [(inputs, outputs)]
        elif isinstance(module, Affine):
            rows, columns = module.weight.shape
            found[f"{name}.weight"] = [(rows, columns)]
        elif isinstance(module, Readout | BiasReadout):
            found |= {f"{name}.{own}": [shape] for own, shape in module.matrices().items()}
    return found


class LowRankAdapters(torch.nn.Module):
    """Adapters of a network's linear maps, and the weights that they change.

    The network itself always has whole weights: those of the last :meth:`merge`. Only a training evaluates
    it with others, :meth:`energies`.

    Parameters
    ----------
    network : MaceEnergy
        Its parameters are no longer trained.
    lora : Lora
        Rank, scale and parts.
    generator : torch.Generator, optional
        Of the first matrices, on the CPU.

    Raises
    ------
    ValueError
        If a part has no linear map.
    """

    if TYPE_CHECKING:
        base: torch.nn.Module
        """What the weights are without adapters."""

    def __init__(self, network: MaceEnergy, lora: Lora, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.scaling = lora.alpha / lora.rank
        matrices = matrices_of(network)
        self.blocks = {name: matrices[name] for name in _chosen(matrices, lora.parts)}
        self.ranks = {
            name: [min(lora.rank, *shape) for shape in blocks] for name, blocks in self.blocks.items()
        }
        self.left = torch.nn.ParameterDict()
        self.right = torch.nn.ParameterDict()
        self.base = torch.nn.Module()
        network.requires_grad_(False)
        weights = {name: weight.detach() for name, weight in network.named_parameters()}
        for name, blocks in self.blocks.items():
            weight, ranks = weights[name], self.ranks[name]
            sizes = [(i * r, r * o) for (i, o), r in zip(blocks, ranks, strict=True)]
            drawn = torch.randn(sum(size for size, _ in sizes), generator=generator, dtype=torch.float64)
            self.left[key_of(name)] = torch.nn.Parameter((drawn * lora.rank**-0.5).to(weight))
            self.right[key_of(name)] = torch.nn.Parameter(weight.new_zeros(sum(size for _, size in sizes)))
            self.base.register_buffer(key_of(name), weight.clone())
        # Random weights that nobody trains are of no use to adapters.
        self.has_weights = False

    def named(self) -> list[tuple[str, str]]:
        """The network's names of adapted weights, and what stands for each in this module's own names."""
        return [(name, key_of(name)) for name in self.blocks]

    def is_new(self) -> bool:
        """Whether nothing has been trained yet."""
        return not any(bool(right.detach().any()) for right in self.right.values())

    def weights(self) -> dict[str, torch.Tensor]:
        """The adapted weights by the network's names, in its shapes, differentiable by the adapters."""
        return self.weights_with(self.state_dict(keep_vars=True))

    def weights_with(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As :meth:`weights`, with other tensors under the names of this module's own, of any shapes that these have."""
        found = {}
        for name, blocks in self.blocks.items():
            left, right, base = (tensors[f"{part}.{key_of(name)}"] for part in ("left", "right", "base"))
            changes, at, to = [], 0, 0
            for (inputs, outputs), rank in zip(blocks, self.ranks[name], strict=True):
                first = left[at : at + inputs * rank].view(inputs, rank)
                second = right[to : to + rank * outputs].view(rank, outputs)
                changes.append((first @ second).flatten())
                at, to = at + inputs * rank, to + rank * outputs
            found[name] = base + self.scaling * torch.cat(changes).view(base.shape)
        return found

    def merge(self, network: torch.nn.Module) -> None:
        """Give the network the weights that it is trained to have."""
        own = dict(network.named_parameters())
        with torch.no_grad():
            for name, weight in self.weights().items():
                own[name].copy_(weight)

    def energies(self, network: MaceEnergy, graph: AtomGraph) -> torch.Tensor:
        """Energies of the nodes with adapted weights.

        Parameters
        ----------
        network : MaceEnergy
            Whose other weights count.
        graph : AtomGraph
            Without ghosts.

        Returns
        -------
        torch.Tensor
            eV, float64, shape (nnode,).
        """
        if not self.has_weights:
            raise ValueError(
                "mace model: adapters ('lora') are trained of a model that is there already, but the weights are random. Start with "
                "--finetune or --init-model, or leave them out."
            )
        result: tuple[torch.Tensor, list[torch.Tensor]] = torch.func.functional_call(
            network, self.weights(), (graph, None)
        )
        return result[0]


def key_of(name: str) -> str:
    """Name of a parameter without dots, which separate modules."""
    return name.removesuffix(".weight").replace(".", "-")


def _chosen(matrices: dict[str, Blocks], parts: tuple[str, ...]) -> list[str]:
    chosen: set[str] = set()
    for part in parts:
        words = part.split(".")
        found = {name for name in matrices if name.split(".")[: len(words)] == words}
        if not found:
            known = sorted({name.split(".")[0] for name in matrices})
            raise ValueError(
                f"mace model: 'adapters' ('lora') names {part!r} among its parts, but no linear map begins so. Parts with linear maps: "
                f"{', '.join(known)}; layers are numbered from 0, e.g. interactions.0."
            )
        chosen |= found
    return [name for name in matrices if name in chosen]
