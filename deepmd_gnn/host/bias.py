"""E0 and the other statistics of a MACE model: from data, given, or adjusted to other data."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from deepmd.pt.utils import env
from deepmd.pt.utils.stat import (
    _restore_observed_type_from_file,
    _save_observed_type_to_file,
    collect_observed_types,
    compute_output_stats,
)
from deepmd.utils.path import DPPath

from deepmd_gnn.config.isolated_atoms import energies_of_types, read_atomic_energies
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.mm_types import is_mm
from deepmd_gnn.config.options import check_mm_types, check_type_map
from deepmd_gnn.host.labels import NoEnergiesError, Sampled, checked, with_energies
from deepmd_gnn.host.observed_types import observed_record, unknown_types
from deepmd_gnn.host.statistics import CachedNumbers, count_forces, count_neighbors
from deepmd_gnn.nn.elements import copy_elements
from deepmd_gnn.nn.energy import MaceEnergy

log = logging.getLogger("deepmd.deepmd_gnn")  # below the host's logger, so that `dp train` prints it


class BiasMixin:
    """Part of :class:`~deepmd_gnn.mace.MaceModel` that owns ``out_bias``, ``avg_num_neighbors`` and ``scale``."""

    if TYPE_CHECKING:
        config: MaceConfig
        energy_model: MaceEnergy
        type_map: list[str]
        counted: dict[str, list[float]]
        rcut: float
        preset_out_bias: dict[str, list[Any]] | None
        out_bias: torch.Tensor
        out_std: torch.Tensor
        observed: torch.Tensor
        training: bool
        excludes_pairs: bool
        pair_allowed: list[list[bool]]
        pair_exclude_types: list[list[int]]
        atom_exclude_types: list[int]
        set_exclusions: Callable[[], None]
        set_option_tensors: Callable[[], None]
        forward: Callable[..., dict[str, torch.Tensor]]
        train: Callable[[bool], torch.nn.Module]
        new_network: Callable[[list[int]], MaceEnergy]
        eval: Callable[[], torch.nn.Module]

    def compute_or_load_stat(
        self,
        sampled_func: Callable[[], Sampled],
        stat_file_path: DPPath | None = None,
        preset_observed_type: list[str] | None = None,
    ) -> None:
        """Set the statistics that are "auto", from the stat file if it has them, else from the data.

        Parameters
        ----------
        sampled_func : Callable
            Returns sampled frames of each training system.
        stat_file_path : DPPath, optional
            Where statistics are kept.
        preset_observed_type : list[str], optional
            Elements of the data, if the user names them.
        """
        sampled_func = checked(sampled_func)
        path = None if stat_file_path is None else stat_file_path / " ".join(self.type_map)
        observed = preset_observed_type or _restore_observed_type_from_file(path)
        if observed is None:
            observed = collect_observed_types(sampled_func(), self.type_map)
            _save_observed_type_to_file(path, observed)
        self.observed.copy_(observed_record(observed, self.type_map))
        cache = CachedNumbers(path, f"r{self.rcut:g}{self._exclusion_tag()}")
        self._set_avg_num_neighbors(sampled_func, cache)
        self._set_scale(sampled_func, cache)
        given = self.given_bias()
        # The host would take what the file has in place of what is given, and keep what is given as if fitted.
        fitted = self._fit_energies(
            sampled_func, stat_file_path=None if self._given_types(given) else path, preset_bias=given
        )
        if fitted is None:
            self._take_given(given)
        else:
            self.out_bias.copy_(fitted)
        for name, value in zip(self.type_map, self.out_bias.flatten().tolist(), strict=True):
            log.info("MACE atomic energy E0 of %s: %.6f eV", name, value)

    def _set_avg_num_neighbors(self, sampled_func: Callable[[], Sampled], cache: CachedNumbers) -> None:
        origin = "given"
        if self.config.avg_num_neighbors == "auto":
            allowed = self.pair_allowed if self.excludes_pairs else None
            (edges, atoms), origin = self._count(
                "avg_num_neighbors", cache, lambda: count_neighbors(sampled_func(), self.rcut, allowed)
            )
            self.energy_model.avg_num_neighbors.fill_(edges / atoms if atoms else 1.0)
        log.info("MACE avg_num_neighbors: %.4f (%s)", float(self.energy_model.avg_num_neighbors), origin)

    def _set_scale(self, sampled_func: Callable[[], Sampled], cache: CachedNumbers) -> None:
        origin = "given"
        if self.config.scale == "auto":
            counts = [not is_mm(name) for name in self.type_map]
            (squares, components), origin = self._count(
                "scale", cache, lambda: count_forces(sampled_func(), counts)
            )
            value = (squares / max(components, 1.0)) ** 0.5
            origin = f"rms force component {origin}"
            if value < 1e-6:
                log.warning("MACE scale: the training data has no forces or only zero forces; using 1.")
                value = 1.0
            self.energy_model.scale.fill_(value)
        log.info("MACE scale: %.6f (%s)", float(self.energy_model.scale), origin)

    def _count(
        self, name: str, cache: CachedNumbers, count: Callable[[], list[float]]
    ) -> tuple[list[float], str]:
        """What a statistic is made of, kept for tasks that share it, and where it is from."""
        numbers, origin = cache.load(name), "from the stat file"
        if numbers is None or len(numbers) != 2:
            numbers, origin = count(), "from the training data"
            cache.save(name, numbers)
        self.counted[name] = numbers
        return numbers, origin

    def given_bias(self) -> dict[str, list[Any]] | None:
        """Atomic energies the user gave, in the host's format; None entries are to be fitted. MM types have zero.

        Raises
        ------
        ValueError
            If the given energies do not fit the type map.
        """
        given = self.config.atomic_energies
        if given == "auto":
            given = (self.preset_out_bias or {}).get("energy") or [None] * len(self.type_map)
        elif isinstance(given, str):
            given = read_atomic_energies(given, self.type_map)
        if isinstance(given, dict):
            energies_by_name = energies_of_types(given, self.type_map)
            given = [energies_by_name.get(name) for name in self.type_map]
        if len(given) != len(self.type_map):
            raise ValueError(
                f"mace model: atomic_energies has {len(given)} values, but type_map has {len(self.type_map)} elements."
            )
        energies = [None if value is None else float(np.asarray(value).reshape(-1)[0]) for value in given]
        for index, name in enumerate(self.type_map):
            if not is_mm(name):
                continue
            if energies[index]:
                raise ValueError(
                    f"mace model: the atomic energy of the MM type {name} is {energies[index]} eV, but must be 0: MM atoms "
                    "have no energy of their own. Leave it out."
                )
            energies[index] = 0.0
        if all(value is None for value in energies):
            return None
        return {"energy": [None if value is None else np.array([value]) for value in energies]}

    def _given_types(self, given: dict[str, list[Any]] | None) -> list[str]:
        """Elements whose E0 the user gave, of what :meth:`given_bias` returns."""
        pairs = zip(self.type_map, given["energy"], strict=True) if given else ()
        return [name for name, value in pairs if value is not None and not is_mm(name)]

    def _warn_of_given(self, adjusts: bool) -> None:
        energies = self.config.atomic_energies
        is_file = (
            isinstance(energies, str) and energies != "auto"
        )  # may be gone: it was read before the training
        given = [energies] if is_file else self._given_types(self.given_bias())
        if given and adjusts:
            log.warning(
                "MACE atomic energies of %s were given and are adjusted to data now, so that isolated atoms no longer have "
                "them. To keep them leave out change_bias_after_training.",
                given,
            )
        elif given:
            log.warning(
                "MACE atomic energies of %s were given and stay; only the others are set. `dp change-bias -m change` adjusts "
                "all of them.",
                given,
            )

    def _only_mm_bias(self) -> dict[str, list[Any]] | None:
        """Zero for MM types in the host's format, everything else to be fitted."""
        if not any(map(is_mm, self.type_map)):
            return None
        return {"energy": [np.zeros(1) if is_mm(name) else None for name in self.type_map]}

    def _without_mm(self, bias: torch.Tensor) -> torch.Tensor:
        """The same energies, shape (1, ntypes, 1), with zero for MM types."""
        mm = torch.tensor([is_mm(name) for name in self.type_map], device=bias.device)
        return torch.where(mm.view(1, -1, 1), torch.zeros_like(bias), bias)

    def _exclusion_tag(self) -> str:
        """What the number of neighbours depends on besides the cutoff; empty where all types see each other."""
        ntypes = len(self.type_map)
        pairs = [f"{i}-{j}" for i in range(ntypes) for j in range(i, ntypes) if not self.pair_allowed[i][j]]
        return "".join(f"_without{pair}" for pair in pairs)

    def _set_given_bias(self) -> None:
        if isinstance(self.config.atomic_energies, str) and self.config.atomic_energies != "auto":
            return  # a file, read when E0 are set; a trained model does not need it any more
        self._take_given(self.given_bias())

    def _take_given(self, given: dict[str, list[Any]] | None) -> None:
        """Set E0 that the user gave, of what :meth:`given_bias` returns."""
        for index, value in enumerate(given["energy"] if given else []):
            if value is not None:
                self.out_bias[0, index, 0] = float(np.asarray(value).reshape(-1)[0])

    def get_out_bias(self) -> torch.Tensor:
        """E0 of each type in eV, shape (1, ntypes, 1)."""
        return self.out_bias

    def set_out_bias(self, out_bias: torch.Tensor) -> None:
        """Set E0 of each type in eV, shape (1, ntypes, 1)."""
        self.out_bias.copy_(torch.as_tensor(out_bias).view_as(self.out_bias))

    def change_out_bias(
        self, merged: Callable[[], Sampled] | Sampled, bias_adjust_mode: str = "change-by-statistic"
    ) -> None:
        """Fit E0 to data.

        Parameters
        ----------
        merged : list or Callable
            Sampled frames, or a function that returns them.
        bias_adjust_mode : str
            ``"change-by-statistic"`` adds the least-squares fit of (label − prediction);
            ``"set-by-statistic"`` replaces E0 by the fit of the labels.

        Raises
        ------
        ValueError
            For another mode.
        """
        modes = {"change-by-statistic": self.predict_atomic_outputs_for_stat, "set-by-statistic": None}
        if bias_adjust_mode not in modes:
            raise ValueError(
                f"mace model: bias_adjust_mode is {bias_adjust_mode!r}, but must be one of {list(modes)}."
            )
        predict = modes[bias_adjust_mode]
        self._warn_of_given(adjusts=predict is not None)
        fitted = self._fit_energies(
            checked(merged if callable(merged) else lambda: merged),
            model_forward=predict,
            preset_bias=self._only_mm_bias() if predict else self.given_bias(),
        )
        if fitted is not None:
            self.out_bias.copy_(self.out_bias + fitted if predict else fitted)

    def _fit_energies(self, sampled_func: Callable[[], Sampled], **options: Any) -> torch.Tensor | None:
        """The host's least squares: energies in eV, shape (1, ntypes, 1), zero for MM types; None without labels."""
        try:
            bias, _ = compute_output_stats(
                with_energies(sampled_func), len(self.type_map), keys=["energy"], **options
            )
        except NoEnergiesError:
            log.warning(
                "MACE atomic energies: the data has no energies to fit them to; they stay as they are."
            )
            return None
        return self._without_mm(bias["energy"].view(1, -1, 1).to(self.out_bias.device))

    def change_type_map(self, type_map: list[str], model_with_new_type_stat: Any = None) -> None:
        """Take other elements: fewer, more or in another order (``dp --pt train --finetune``).

        Parameters
        ----------
        type_map : list[str]
            The new elements. Those the model knows keep their weights and E0, others start anew.
        model_with_new_type_stat : MaceModel, optional
            Model of the new data, with `type_map`, that gives new elements their E0.
        """
        numbers = check_type_map(type_map, ATOMIC_NUMBERS)
        check_mm_types(type_map, self.config)
        kept = [
            (self.type_map.index(name), new) for new, name in enumerate(type_map) if name in self.type_map
        ]
        network = self.new_network(numbers)
        copy_elements(self.energy_model, network, kept)
        bias = self.out_bias.new_zeros(1, len(type_map), 1)
        observed = unknown_types(len(type_map)).to(self.observed.device)
        if model_with_new_type_stat is not None:
            bias.copy_(model_with_new_type_stat.get_out_bias())
            observed.copy_(model_with_new_type_stat.observed)
        for old, new in kept:
            bias[0, new] = self.out_bias[0, old]
            observed[new] = self.observed[old]
        self.energy_model = network
        self.out_bias = bias
        self.observed = observed
        self.out_std = torch.ones_like(bias)
        self.type_map = list(type_map)
        place = dict(kept)
        self.pair_exclude_types = [
            [place[i], place[j]] for i, j in self.pair_exclude_types if i in place and j in place
        ]
        self.atom_exclude_types = [place[i] for i in self.atom_exclude_types if i in place]
        self.set_exclusions()
        self.set_option_tensors()

    def predict_atomic_outputs_for_stat(
        self,
        coord: Any,
        atype: Any,
        box: Any,
        fparam: Any = None,  # noqa: ARG002 - the host's signature
        aparam: Any = None,  # noqa: ARG002
        charge_spin: Any = None,  # noqa: ARG002
        spin: Any = None,  # noqa: ARG002
    ) -> dict[str, torch.Tensor]:
        """Atomic energies of frames, for the regression of E0; arrays or tensors."""
        coord = torch.as_tensor(coord, device=env.DEVICE)
        atype = torch.as_tensor(atype, device=env.DEVICE).long()
        box = None if box is None else torch.as_tensor(box, device=env.DEVICE)
        was_training = self.training
        self.eval()
        try:
            return {"energy": self.forward(coord, atype, box)["atom_energy"]}
        finally:
            self.train(was_training)
