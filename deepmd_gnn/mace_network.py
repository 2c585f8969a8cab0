"""The only file that touches mace-torch and e3nn: builds native modules and takes their parts.

Parameter names follow ``mace.modules.ScaleShiftMACE``, so that weights travel between the two unchanged.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch

from deepmd_gnn.config import MaceConfig
from deepmd_gnn.e3nn_compat import allow_e3nn_constants, unchanged_environment

allow_e3nn_constants()
with unchanged_environment():
    import e3nn
    from e3nn import o3
    from mace import modules as mace_modules


@contextmanager
def _construction(seed: int | list[int] | None) -> Iterator[None]:
    """Set what e3nn and MACE read from globals while they build a network, and restore it.

    Parameters are created in the default dtype: float64, cast later, so that both precisions start from the same
    weights. Unscripted e3nn modules build faster, can be copied, and are compiled with the whole model at freeze.
    """
    dtype = torch.get_default_dtype()
    scripted = e3nn.get_optimization_defaults()["jit_script_fx"]
    state = torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)  # noqa: TID251 - restored below
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        if seed is not None:
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        yield
    finally:
        torch.set_default_dtype(dtype)  # noqa: TID251
        e3nn.set_optimization_defaults(jit_script_fx=scripted)
        if seed is not None:
            torch.random.set_rng_state(state)


def build_native(config: MaceConfig, atomic_numbers: list[int]) -> torch.nn.Module:
    """Build native MACE for a configuration.

    Parameters
    ----------
    config : MaceConfig
        Architecture. Statistics that are "auto" become 1.
    atomic_numbers : list[int]
        Elements in the order of the type map.

    Returns
    -------
    torch.nn.Module
        ``mace.modules.ScaleShiftMACE`` in float64 on the CPU, its own atomic energies zero.
    """
    blocks = mace_modules.interaction_classes
    with _construction(config.seed), torch.device("cpu"):
        return mace_modules.ScaleShiftMACE(
            r_max=config.r_max,
            num_bessel=config.num_radial_basis,
            num_polynomial_cutoff=config.num_cutoff_basis,
            max_ell=config.max_ell,
            interaction_cls=blocks[config.interaction],
            interaction_cls_first=blocks[config.interaction_first],
            num_interactions=config.num_interactions,
            num_elements=len(atomic_numbers),
            hidden_irreps=o3.Irreps(config.hidden_irreps),
            MLP_irreps=o3.Irreps(config.MLP_irreps),
            atomic_energies=np.zeros(len(atomic_numbers)),
            avg_num_neighbors=1.0 if config.avg_num_neighbors == "auto" else config.avg_num_neighbors,
            atomic_numbers=atomic_numbers,
            correlation=config.correlations,
            gate=mace_modules.gate_dict[config.gate],
            pair_repulsion=config.pair_repulsion,
            apply_cutoff=config.apply_cutoff,
            distance_transform=config.distance_transform,
            radial_MLP=list(config.radial_MLP),
            radial_type=config.radial_type,
            # The class default depends on whether cuequivariance is installed.
            use_reduced_cg=False,
            atomic_inter_scale=1.0 if config.scale == "auto" else config.scale,
            atomic_inter_shift=0.0,
        )


class Interaction(torch.nn.Module):
    r"""One message-passing step, made of the parts of a native interaction block.

    The native blocks run every operation on every node. Here only the features that travel along edges exist on
    ghosts, so that all other work is done once per owned atom, and the exchange sits between the two.

    Parameters
    ----------
    block : torch.nn.Module
        A native RealAgnostic[Density][Residual] interaction block.
    """

    residual: Final[bool]
    density: Final[bool]

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        name = type(block).__name__
        self.residual = "Residual" in name
        self.density = "Density" in name
        self.linear_up = block.linear_up
        self.conv_tp = block.conv_tp
        self.conv_tp_weights = block.conv_tp_weights
        self.linear = block.linear
        self.skip_tp = block.skip_tp
        self.reshape = block.reshape
        # TorchScript wants the attribute in every block; without density it has no parameters.
        self.density_fn = block.density_fn if self.density else torch.nn.Identity()

    def messages(
        self,
        sent: torch.Tensor,
        edge_index: torch.Tensor,
        edge_attrs: torch.Tensor,
        edge_feats: torch.Tensor,
        cutoff: torch.Tensor | None,
        nnode: int,
        avg_num_neighbors: torch.Tensor,
    ) -> torch.Tensor:
        """Sum what each node receives.

        Parameters
        ----------
        sent : torch.Tensor
            Features of the senders after `linear_up`, shape (nsender, dim).
        edge_index : torch.Tensor
            Sender and receiver, shape (2, nedge).
        edge_attrs, edge_feats : torch.Tensor
            Spherical harmonics and radial features, shape (nedge, ·).
        cutoff : torch.Tensor, optional
            Envelope that multiplies the output of the radial network (``apply_cutoff: false``), shape (nedge, 1).
        nnode : int
            Number of receivers.
        avg_num_neighbors : torch.Tensor
            Normalisation, 0-dimensional; density blocks learn their own.

        Returns
        -------
        torch.Tensor
            Shape (nnode, dim).
        """
        weights = self.conv_tp_weights(edge_feats)
        if cutoff is not None:
            weights = weights * cutoff
        edge_messages = self.conv_tp(sent[edge_index[0]], edge_attrs, weights)
        message = edge_messages.new_zeros(nnode, edge_messages.shape[1]).index_add(
            0, edge_index[1], edge_messages
        )
        if not self.density:
            return self.linear(message) / avg_num_neighbors
        edge_density = torch.tanh(self.density_fn(edge_feats) ** 2)
        if cutoff is not None:
            edge_density = edge_density * cutoff
        density = edge_density.new_zeros(nnode, 1).index_add(0, edge_index[1], edge_density)
        return self.linear(message) / (density + 1)


class Readout(torch.nn.Module):
    """Energy of a node from its features; the native readouts without heads.

    Parameters
    ----------
    block : torch.nn.Module
        A native linear or non-linear readout block.
    gate : str
        Name of the non-linearity.
    """

    is_linear: Final[bool]
    gate: Final[str]

    def __init__(self, block: torch.nn.Module, gate: str) -> None:
        super().__init__()
        self.is_linear = not hasattr(block, "linear_1")
        self.gate = gate
        self.gate_factor: float = 1.0
        if self.is_linear:
            self.linear = block.linear
            return
        self.linear_1 = block.linear_1
        self.linear_2 = block.linear_2
        activation = block.non_linearity.acts[0]  # type: ignore[index]
        if activation is not None and gate != "None":
            self.gate_factor = float(activation.cst)  # e3nn scales activations to unit second moment

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute node energies.

        Parameters
        ----------
        features : torch.Tensor
            Shape (nnode, dim).

        Returns
        -------
        torch.Tensor
            Shape (nnode,), in units of the model's scale.
        """
        if self.is_linear:
            return self.linear(features)[:, 0]
        else:  # noqa: RET505 - TorchScript compiles only the branch that applies
            hidden = self.linear_1(features)
            if self.gate == "silu":
                hidden = torch.nn.functional.silu(hidden)
            elif self.gate == "tanh":
                hidden = torch.tanh(hidden)
            elif self.gate == "abs":
                hidden = torch.abs(hidden)
            return self.linear_2(hidden * self.gate_factor)[:, 0]
