"""Training through native MACE's cuEquivariance configuration, with our parameters in their portable layout.

The cuEquivariance modules hold no weights of their own here: at every call they get ours, rearranged by
differentiable operations, so that gradients, checkpoints and frozen files know nothing of the other layout.
"""

import importlib.util
from typing import Any

import torch

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.mace_network import build_cuequivariance
from deepmd_gnn.nn.energy import MaceEnergy

INSTALL = 'pip install "deepmd-gnn[cueq]"'


def check_available() -> None:
    """Raise if the package is missing.

    Raises
    ------
    ImportError
        Names the option, the package and what to do.
    """
    missing = [
        name for name in ("cuequivariance", "cuequivariance_torch") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ImportError(
            f"mace model: 'enable_cueq' is true, but {' and '.join(missing)} cannot be imported. "
            f"Install it with {INSTALL}, or leave 'enable_cueq' out: checkpoints are the same with and without it."
        )


class CuEquivarianceEvaluator:
    """Energies of a graph by cuEquivariance, from the parameters of a :class:`MaceEnergy`.

    Not a module: it has no state that a checkpoint should hold.

    Parameters
    ----------
    config : MaceConfig
        Architecture.
    network : MaceEnergy
        Whose parameters are used; also gives the elements.

    Raises
    ------
    ImportError
        If cuEquivariance is not installed.
    ValueError
        If cuEquivariance arranges the weights of this architecture in another way.
    """

    def __init__(self, config: MaceConfig, network: MaceEnergy) -> None:
        check_available()
        if config.distance_transform == "OldSoft":  # native's modules have today's
            raise ValueError(
                "mace model: 'enable_cueq' does not cover this architecture: distance_transform is OldSoft. Leave 'enable_cueq' out."
            )
        numbers = network.atomic_numbers.tolist()
        # Where the network is, not what the machine has: it may be trained on the CPU of a machine with a GPU.
        fused = network.atomic_numbers.device.type == "cuda"
        self.module = build_cuequivariance(config, numbers, fused).to(network.dtype)
        self.module.requires_grad_(False)
        self.module.scale_shift.scale.fill_(1.0)  # ours is applied below
        self.elements = numbers
        self.shapes = {name: p.shape for name, p in self.module.named_parameters()}
        arranged = self.arrange(network)
        different = [name for name, shape in self.shapes.items() if name not in arranged]
        if different:
            raise ValueError(
                f"mace model: 'enable_cueq' does not cover this architecture: no weights for {', '.join(different)}. "
                "Leave 'enable_cueq' out."
            )

    def arrange(self, network: MaceEnergy) -> dict[str, torch.Tensor]:
        """Parameters of the cuEquivariance module, as functions of ours.

        Parameters
        ----------
        network : MaceEnergy
            With the weights.

        Returns
        -------
        dict[str, torch.Tensor]
            By name; gradients flow back.
        """
        ours = dict(network.named_parameters())
        arranged = {
            name: ours[name].reshape(shape)
            for name, shape in self.shapes.items()
            if name in ours and ours[name].numel() == shape.numel()
        }
        for index in range(len(network.products)):
            prefix = f"products.{index}.symmetric_contractions."
            name = f"{prefix}weight"
            parts = [p for key, p in _ordered(ours, prefix) if p.numel()]
            if name in self.shapes and parts:
                arranged[name] = torch.cat(parts, dim=1).reshape(self.shapes[name])
        return arranged

    def __call__(self, network: MaceEnergy, graph: AtomGraph) -> torch.Tensor:
        """Evaluate.

        Parameters
        ----------
        network : MaceEnergy
            With the weights and statistics.
        graph : AtomGraph
            Without ghosts: every sender is a node.

        Returns
        -------
        torch.Tensor
            eV, float64, shape (nnode,): the same as `network` gives.
        """
        nnode, device, dtype = graph.node_types.shape[0], graph.edge_vec.device, network.dtype
        self.module.to(device)
        for block in self.module.interactions:
            block.avg_num_neighbors = network.avg_num_neighbors.to(dtype)
        zeros = torch.zeros(nnode, 3, dtype=dtype, device=device)
        data = {
            # All the geometry is in the shifts: native adds positions of receiver minus sender to them.
            "positions": zeros,
            "shifts": -graph.edge_vec.to(dtype),
            "unit_shifts": torch.zeros_like(graph.edge_vec, dtype=dtype),
            "cell": torch.zeros(3, 3, dtype=dtype, device=device),
            "edge_index": graph.edge_index,
            "node_attrs": torch.nn.functional.one_hot(graph.node_types, network.ntypes).to(dtype),
            "batch": torch.zeros(nnode, dtype=torch.int64, device=device),
            "ptr": torch.tensor([0, nnode], device=device),
            "head": torch.zeros(1, dtype=torch.int64, device=device),
        }
        out: dict[str, Any] = torch.func.functional_call(
            self.module, self.arrange(network), (data,), {"training": True, "compute_force": False}
        )
        return network.scale * out["node_energy"].to(torch.float64)


def _ordered(ours: dict[str, torch.nn.Parameter], prefix: str) -> list[tuple[str, torch.nn.Parameter]]:
    """Weights of a contraction in cuEquivariance's order: by irrep, the highest correlation first."""

    def place(key: str) -> tuple[int, int]:
        _, irrep, weight = key.removeprefix(prefix).split(
            ".", 2
        )  # contractions.{irrep}.weights_max or weights.{n}
        return int(irrep), -1 if weight == "weights_max" else int(weight.split(".")[1])

    found = [key for key in ours if key.startswith(f"{prefix}contractions.")]
    return [(key, ours[key]) for key in sorted(found, key=place)]


class CuEquivarianceMixin:
    """Part of :class:`~deepmd_gnn.mace.MaceModel` that trains with cuEquivariance if the user wants it."""

    config: MaceConfig
    energy_model: MaceEnergy
    trains_with_cueq: bool
    training: bool

    def uses_cuequivariance(self, graph: AtomGraph) -> bool:
        """Only eager training does; traces and evaluation have our own code."""
        return self.trains_with_cueq and self.training and graph.incoming is None

    @torch.jit.unused
    def cuequivariance_energies(self, graph: AtomGraph) -> torch.Tensor:
        """Energies of the nodes; builds the evaluator at the first training step."""
        evaluator = self.__dict__.get("_cuequivariance")
        if evaluator is None or evaluator.elements != self.energy_model.atomic_numbers.tolist():
            evaluator = CuEquivarianceEvaluator(self.config, self.energy_model)
            object.__setattr__(self, "_cuequivariance", evaluator)
        return evaluator(self.energy_model, graph)
