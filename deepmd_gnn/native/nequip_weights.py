"""Weights of a NequIP model in a file, under the names of the package nequip 0.6: do they fit its options, and a model that has them."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers
from deepmd.pt.utils import env

from deepmd_gnn.config.checks import PRECISIONS
from deepmd_gnn.config.mm_types import element_of, is_mm
from deepmd_gnn.config.nequip import NequipConfig, fail
from deepmd_gnn.files.fitting_nequip import nequip_misfit, sizes
from deepmd_gnn.files.native_file import NotConvertible
from deepmd_gnn.mace_network import on_cpu
from deepmd_gnn.native.reader import check_elements
from deepmd_gnn.nequip import NequipModel
from deepmd_gnn.nequip_network import build_energy
from deepmd_gnn.nn.elements import copy_elements
from deepmd_gnn.nn.nequip_names import ANCHOR, package_name, take_weights

# Names of tensors that are no weights: e3nn's masks and constants, and a rescaling, which is looked for by itself.
_NO_WEIGHTS = re.compile(r"(^|\.)(output_mask|_[^.]*(\..*)?|scale_by|shift_by|scales|shifts)$")


def check_weights(
    path: str | Path, state: Mapping[str, torch.Tensor], ntypes: int, config: NequipConfig
) -> None:
    """Compare the options with the weights before anything of their size is built, and refuse weights that nothing here reads.

    Parameters
    ----------
    path : str or Path
        The file's name, for messages.
    state : Mapping[str, torch.Tensor]
        Its tensors by name, of any shape.
    ntypes : int
        Number of its types.
    config : NequipConfig
        Its options.

    Raises
    ------
    NotConvertible
        If they do not fit.
    """
    anchor = next(name for name in state if name.endswith(ANCHOR))
    prefix = anchor.removesuffix(ANCHOR)
    shapes = {name.removeprefix(prefix): tuple(t.shape) for name, t in state.items() if t.numel()}
    wrong = _miscounted(config, shapes)
    if wrong is None:
        names = {package_name(name): name for name in sizes(config, ntypes)}
        ours = {names[name]: shape for name, shape in shapes.items() if name in names}
        unread = [name for name in shapes if name not in names and not _NO_WEIGHTS.search(name)]
        wrong = nequip_misfit(config, ntypes, ours)
        wrong = wrong or (f"weights '{unread[0]}', which it should not have" if unread else None)
    if wrong:
        raise NotConvertible(
            f"{path}: what the file says of itself does not fit its weights ({wrong}). Not converted."
        )


def _miscounted(config: NequipConfig, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Layers that are stated and not there, of which a list must not be made."""
    for key, stated, pattern in (
        ("num_layers", config.num_layers, r"(layer\d+)_convnet\."),
        ("invariant_layers", config.invariant_layers + 1, r"layer0_convnet\.conv\.fc\.(layer\d+)\."),
    ):
        found = {match[1] for name in shapes if (match := re.match(pattern, name))}
        if len(found) != stated:
            return f"{len(found)} layers, but {key} asks for {stated}"
    return None


def chosen_config(options: dict[str, Any], precision: str | None, sel: int | None) -> NequipConfig:
    """Options of a file, with what the user wants otherwise.

    Parameters
    ----------
    options : dict[str, Any]
        Fields of :class:`~deepmd_gnn.config.nequip.NequipConfig`.
    precision, sel
        As for :func:`~deepmd_gnn.native.reader.load_mace`.

    Returns
    -------
    NequipConfig

    Raises
    ------
    ValueError
        If there is no such precision.
    """
    given: dict[str, Any] = {"precision": precision, "sel": sel}
    chosen = options | {key: value for key, value in given.items() if value is not None}
    if chosen["precision"] not in PRECISIONS:
        fail("precision", precision, "one of " + ", ".join(PRECISIONS))
    # New elements of a later fine-tuning start from this seed.
    return NequipConfig(**chosen, seed=1)


def build(
    state: dict[str, torch.Tensor],
    shifts: torch.Tensor | None,
    known: list[str],
    config: NequipConfig,
    elements: list[str] | None,
) -> NequipModel:
    """Build the model of the elements that are kept.

    Parameters
    ----------
    state : dict[str, torch.Tensor]
        Weights of any shape, and the package's rescalings if there are some.
    shifts : torch.Tensor, optional
        Added to the energies besides, eV, shape (ntypes,).
    known : list[str]
        Types of the file, in its order.
    config : NequipConfig
        Options.
    elements : list[str], optional
        Types to keep, in this order; all by default.

    Returns
    -------
    NequipModel
        In eval mode, with the file's energies.

    Raises
    ------
    ValueError
        If an element is not in the file, or the weights do not fit.
    """
    wanted = known if elements is None else list(elements)
    check_elements(wanted, known)
    with on_cpu():  # where the tensors of the file are
        network = build_energy(config, [atomic_numbers[element_of(name)] for name in known])
        energies = take_weights(network, state)
    if shifts is not None:
        energies = energies + shifts.to(torch.float64)
    by_name = dict(zip(known, energies.tolist(), strict=True))
    # Options take none for MM types. Those of the plugin have the constant that its network gives a lone atom; it is kept with
    # the weights, so that energies are the plugin's.
    stated = {name: by_name[name] for name in wanted if not is_mm(name)}
    loaded = NequipModel(type_map=wanted, **dataclasses.replace(config, atomic_energies=stated).to_dict())
    loaded.set_out_bias(torch.tensor([by_name[name] for name in wanted], dtype=torch.float64))
    copy_elements(
        network.to(env.DEVICE), loaded.energy_model, [(known.index(n), i) for i, n in enumerate(wanted)]
    )
    loaded.eval()
    return loaded
