"""An input for ``dp train`` that does what a call of ``mace_run_train`` does, and what became of each flag."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from deepmd_gnn.datasets.summary import DataFolder
from deepmd_gnn.tools.native_flags import DROPPED, FLAGS, REPLACED, TRANSLATED
from deepmd_gnn.tools.native_options import as_list, literal, truth
from deepmd_gnn.tools.training_input import Choices, recipe, set_steps

# Native's defaults, where a call that does not name the flag depends on them.
DEFAULTS: dict[str, Any] = {
    "r_max": 5.0, "num_channels": 128, "max_L": 1, "max_ell": 3, "correlation": 3, "num_interactions": 2, "default_dtype": "float64",
    "batch_size": 10, "valid_batch_size": 10, "lr": 0.01, "max_num_epochs": 2048, "seed": 123, "energy_weight": 1.0,
    "forces_weight": 100.0, "virials_weight": 1.0, "stress_weight": 1.0, "swa_energy_weight": 1000.0, "swa_forces_weight": 100.0,
    "swa_virials_weight": 10.0, "swa_stress_weight": 10.0, "clip_grad": 10.0, "ema_decay": 0.99, "loss": "weighted", "optimizer": "adam",
    "model": "MACE", "interaction": "RealAgnosticResidualInteractionBlock",
    "interaction_first": "RealAgnosticResidualInteractionBlock", "apply_cutoff": True, "lora": False, "lora_rank": 4, "lora_alpha": 1.0,
}  # fmt: skip
# Flags whose value is that of the model's option of the same name.
_SAME = (
    "r_max", "radial_type", "num_radial_basis", "num_cutoff_basis", "distance_transform", "use_last_readout_only", "interaction",
    "max_ell", "correlation", "use_so3", "use_agnostic_product", "num_interactions", "MLP_irreps", "radial_MLP", "hidden_irreps",
    "edge_irreps", "use_edge_irreps_first", "gate", "pair_repulsion", "enable_cueq",
)  # fmt: skip
_STRINGS = ("radial_type", "distance_transform", "interaction", "MLP_irreps", "hidden_irreps", "edge_irreps", "gate")  # fmt: skip
_SQUARES = ("huber", "universal", "ef", "l1l2energyforces")
# Blocks whose energy jumps at r_max if the cutoff multiplies the radial basis only.
_UNBOUNDED = ("AttResidual", "ResidualNonLinear")
_FIRST = ("RealAgnosticInteractionBlock", "RealAgnosticDensityInteractionBlock")


@dataclass(frozen=True)
class Fate:
    """What became of one flag."""

    flag: str
    value: Any
    fate: str
    """Translated, replaced, dropped, or unknown."""
    target: str
    why: str

    def __str__(self) -> str:
        value = "" if self.value is True else f"={self.value}"
        target = f" → {self.target}" if self.target else ""
        return f"--{self.flag}{value}: {self.fate}{target} ({self.why})"


def translate(options: dict[str, Any], data: DataFolder, section: dict[str, Any] | None = None) -> tuple[Choices, list[Fate]]:  # fmt: skip
    """Translate native flags.

    Parameters
    ----------
    options : dict[str, Any]
        From :func:`~deepmd_gnn.tools.native_options.read_native_options`.
    data : DataFolder
        What there is to train on.
    section : dict[str, Any], optional
        Model section of a foundation model that was converted; its architecture holds.

    Returns
    -------
    choices : Choices
        The input.
    fates : list[Fate]
        One for each flag, in the order given.

    Raises
    ------
    ValueError
        If a flag asks for what is no energy model, or has a value that native does not know either.
    """
    native = _Native(options, recipe(data))
    for step in (native.model, native.energies, native.loss, native.optimizer, native.training):
        step(data)
    if section is not None:
        native.foundation(section)
    else:
        native.no_foundation()
    return native.choices, [native.fate(name) for name in options]


class _Native:
    """Flags and the input that they become."""

    def __init__(self, options: dict[str, Any], choices: Choices) -> None:
        self.options, self.choices = options, choices
        self.changed: dict[str, tuple[str, str, str]] = {}  # flags whose value decides about their fate

    def __call__(self, name: str, convert: Callable[[Any], Any] = literal) -> Any:
        value = self.options.get(name, DEFAULTS.get(name))
        try:
            return convert(value)
        except (TypeError, ValueError):
            raise ValueError(f"--{name}: {value!r} cannot be read as {convert.__name__}.") from None

    def reason(self, *names: str) -> str:
        """Where a value comes from."""
        given = [f"--{name}" for name in names if name in self.options]
        return f"from {' and '.join(given)}" if given else f"default of mace_run_train's --{names[0]}"

    def fate(self, name: str) -> Fate:
        if name not in FLAGS:
            why = "mace_run_train has no such flag, or that of a newer version"
            return Fate(name, self.options[name], "unknown", "", why)
        flag = FLAGS[name]
        fate, target, why = self.changed.get(name, (flag.fate, flag.target, flag.why))
        return Fate(name, self.options[name], fate, target, why)

    def model(self, data: DataFolder) -> None:
        kind = self("model", str)
        if kind not in ("MACE", "ScaleShiftMACE"):
            raise ValueError(f"--model {kind}: only MACE and ScaleShiftMACE are energy models that run here.")
        section = {"type": "mace", "type_map": data.train.type_map}
        self.choices.values["model"] = {**section, **self._energies_before()}
        put = self.choices.set
        for name in _SAME:
            if name in self.options or name in DEFAULTS:
                value = self(name, str) if name in _STRINGS else self(name)
                if value != "None":
                    put("model", name, value, self.reason(name))
        if "atomic_numbers" in self.options:
            names = [chemical_symbols[int(number)] for number in self("atomic_numbers")]
            put("model", "type_map", names, self.reason("atomic_numbers"))
        if "hidden_irreps" not in self.options or {"num_channels", "max_L"} & set(self.options):
            # As in native MACE, these win over hidden_irreps.
            self.choices.drop("model", "hidden_irreps")
            for name in ("num_channels", "max_L"):
                put("model", name, self(name, int), self.reason(name))
        if self.options.get("embedding_specs"):
            put("model", "embeddings", self("embedding_specs"), self.reason("embedding_specs"))
            put("model", "use_embedding_readout", truth(self.options.get("use_embedding_readout", False)), self.reason("use_embedding_readout"))  # fmt: skip
        put("model", "precision", self("default_dtype", str), self.reason("default_dtype"))
        self._blocks(kind)
        self._statistics()

    def _statistics(self) -> None:
        put = self.choices.set
        if self.options.get("std") is not None:
            put("model", "scale", self("std", float), self.reason("std"))
        elif self.options.get("scaling") == "no_scaling":
            put("model", "scale", 1.0, self.reason("scaling"))
        if "compute_avg_num_neighbors" in self.options and not truth(self("compute_avg_num_neighbors")):
            value = float(self.options.get("avg_num_neighbors", 1.0))
            put("model", "avg_num_neighbors", value, self.reason("avg_num_neighbors"))
        elif "avg_num_neighbors" in self.options:
            why = "native computes it from the data unless compute_avg_num_neighbors=False, and so does this"
            self.changed["avg_num_neighbors"] = (DROPPED, "", why)

    def _energies_before(self) -> dict[str, Any]:
        return {"atomic_energies": self.choices.values["model"]["atomic_energies"]}

    def _blocks(self, kind: str) -> None:
        first = self("interaction_first", str)
        if kind == "MACE" and first not in _FIRST:
            first = _FIRST[0]
        reason = self.reason("interaction_first")
        self.choices.set("model", "interaction_first", first, reason + "; native's model MACE" * (kind == "MACE"))  # fmt: skip
        used = (first, self("interaction", str))
        if any(name in block for name in _UNBOUNDED for block in used):
            if "apply_cutoff" in self.options:
                why = "left to the default, false: with these blocks true makes the energy jump at r_max"
                self.changed["apply_cutoff"] = (REPLACED, "model.apply_cutoff", why)
        elif "apply_cutoff" in self.options:
            self.choices.set("model", "apply_cutoff", truth(self("apply_cutoff")), self.reason("apply_cutoff"))  # fmt: skip

    def energies(self, data: DataFolder) -> None:
        given = literal(self.options.get("E0s"))
        put = self.choices.set
        if isinstance(given, dict):
            named = {chemical_symbols[int(k)] if str(k).isdigit() else str(k): float(v) for k, v in given.items()}  # fmt: skip
            put("model", "atomic_energies", named, self.reason("E0s"))
        elif isinstance(given, str) and given.endswith(".json"):
            put("model", "atomic_energies", given, self.reason("E0s"))
        elif isinstance(given, str) and given.lower() == "average":
            put(
                "model", "atomic_energies", "auto", "from --E0s=average: least squares over the training data"
            )
        elif data.e0 is None and "foundation_model" not in self.options:
            put("model", "atomic_energies", "auto", "native would stop without --E0s: the data have no isolated atoms. Least squares")  # fmt: skip
        fitted = self.choices.values["model"]["atomic_energies"] == "auto"
        reason = "E0 are fitted" if fitted else "the given E0 stay as they are, as in native MACE"
        put("training", "change_bias_after_training", fitted, reason)

    def loss(self, data: DataFolder) -> None:
        kind = self("loss", str)
        if "dipole" in kind:
            raise ValueError(f"--loss {kind}: dipoles are not learned here.")
        if kind in _SQUARES:
            self.changed["loss"] = (REPLACED, "loss", "squares with the same weights; native's is another function of the error")  # fmt: skip
        staged = truth(self.options.get("swa", False))
        weights = {"e": "energy_weight", "f": "forces_weight"}
        for letter, name in weights.items():
            start = 0.0 if kind == "forces_only" and letter == "e" else self(name, float)
            end = self(f"swa_{name}", float) if staged else start
            self.choices.set("loss", f"start_pref_{letter}", start, self.reason(name))
            self.choices.set("loss", f"limit_pref_{letter}", end, self.reason(f"swa_{name}") if staged else "no stage two")  # fmt: skip
            if not staged and f"swa_{name}" in self.options:
                self.changed[f"swa_{name}"] = (DROPPED, "", "without --swa native does not use it either")
        start, end, why = self._virials(kind, staged, data)
        self.choices.set("loss", "start_pref_v", start, why)
        self.choices.set("loss", "limit_pref_v", end)

    def _virials(self, kind: str, staged: bool, data: DataFolder) -> tuple[float, float, str]:
        if kind == "virials":
            start = self("virials_weight", float)
            return start, self("swa_virials_weight", float) if staged else start, self.reason("virials_weight")  # fmt: skip
        if kind in ("stress", "universal", "huber") and data.train.volume_per_atom:
            # (stress error)² = (virial error per atom)² / (volume per atom)².
            factor = 1.0 / data.train.volume_per_atom**2
            start = self("stress_weight", float)
            end = self("swa_stress_weight", float) if staged else start
            why = f"{self.reason('stress_weight')}, divided by the square of the mean volume per atom, {data.train.volume_per_atom:.4g} Å³"  # fmt: skip
            return float(f"{start * factor:.4g}"), float(f"{end * factor:.4g}"), why
        unused = [name for name in ("virials_weight", "stress_weight") if name in self.options]
        for name in unused:
            self.changed[name] = (DROPPED, "", f"native's loss {kind} does not use it either")
        why = f"native's loss {kind} has no virials"
        if data.train.labels.get("virial"):
            why += ", though the data have: 3 and 10 would train them"
        return 0.0, 0.0, why

    def optimizer(self, data: DataFolder) -> None:  # noqa: ARG002 - as its neighbours
        kind = self("optimizer", str)
        self.choices.values["optimizer"] = {}
        self.choices.set("optimizer", "type", "AdamW" if kind == "adamw" else "Adam", self.reason("optimizer"))  # fmt: skip
        if kind == "schedulefree":
            self.changed["optimizer"] = (REPLACED, "optimizer.type", "Adam with the recipe's schedule")
        if "beta" in self.options:
            self.choices.set("optimizer", "adam_beta1", self("beta", float), self.reason("beta"))
        if kind == "adamw":
            decay = float(self.options.get("weight_decay", 5e-7))
            self.choices.set("optimizer", "weight_decay", decay, self.reason("weight_decay"))
        elif "weight_decay" in self.options:
            self.changed["weight_decay"] = (DROPPED, "", FLAGS["weight_decay"].why)
        self.choices.set("learning_rate", "start_lr", self("lr", float), self.reason("lr"))

    def training(self, data: DataFolder) -> None:
        training = self.choices.values["training"]
        size = min(self("batch_size", int), data.train.frames)
        training["training_data"]["batch_size"] = size
        self.choices.reasons["training"]["training_data"] = f"{self.reason('batch_size')}: {size} frames"
        if data.valid is not None:
            valid = min(self("valid_batch_size", int), data.valid.frames)
            whole = -(-data.valid.frames // valid)
            training["validation_data"] |= {"batch_size": valid, "numb_btch": min(20, whole)}
            self.choices.reasons["training"]["validation_data"] = self.reason("valid_batch_size")
        epochs = self("max_num_epochs", int)
        batches = max(1, data.train.frames // size)
        set_steps(self.choices, epochs * batches, f"{self.reason('max_num_epochs')}: {epochs} epochs of {batches} batches")  # fmt: skip
        self.choices.set("training", "seed", self("seed", int), self.reason("seed"))
        clip = self("clip_grad")
        self.choices.set("training", "gradient_max_norm", float(clip or 0.0), self.reason("clip_grad"))
        if truth(self.options.get("ema", False)):
            self.choices.set("training", "enable_ema", True, self.reason("ema"))
            self.choices.set("training", "ema_decay", self("ema_decay", float), self.reason("ema_decay"))

    def no_foundation(self) -> None:
        """Adapters change a model that is there already."""
        for name in ("lora", "lora_rank", "lora_alpha"):
            if name in self.options:
                self.changed[name] = (DROPPED, "", "without a foundation model there is nothing to adapt")

    def foundation(self, section: dict[str, Any]) -> None:
        """Take the architecture of the model that training starts from; flags that say otherwise are void, as in native MACE."""
        before = self.choices.values["model"]
        self.choices.values["model"] = dict(section)
        self.choices.reasons["model"] = {"type": "architecture of the converted foundation model"}
        for name in (*_SAME, "num_channels", "max_L", "interaction_first", "apply_cutoff"):
            if name in self.options and section.get(name) != before.get(name):
                self.changed[name] = (DROPPED, "", "the foundation model has its own architecture")
        if self("lora", truth):
            adapters = {"rank": self("lora_rank", int), "alpha": self("lora_alpha", float)}
            self.choices.set("model", "adapters", adapters, self.reason("lora", "lora_rank", "lora_alpha"))
        given = str(self.options.get("E0s", "")).lower()
        if given not in ("", "foundation", "estimated") and before["atomic_energies"] != "auto":
            self.choices.set("model", "atomic_energies", before["atomic_energies"], self.reason("E0s"))


def fates_by_kind(fates: list[Fate]) -> list[tuple[str, list[Fate]]]:
    """Sort flags by what became of them."""
    kinds = (TRANSLATED, REPLACED, DROPPED, "unknown")
    return [(kind, [fate for fate in fates if fate.fate == kind]) for kind in kinds]


def data_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """What ``deepmd-gnn data`` needs to know of native's flags.

    Parameters
    ----------
    options : dict[str, Any]
        Native flags.

    Returns
    -------
    dict[str, Any]
        ``train``, ``valid``, ``test`` (lists of paths), ``keys``, ``valid_fraction``, ``seed``, ``fparam``.
    """
    files = {part: [Path(one) for one in as_list(options[f"{part}_file"])] if options.get(f"{part}_file") else [] for part in ("train", "valid", "test")}  # fmt: skip
    keys = {name: str(options[f"{name}_key"]) for name in ("energy", "forces", "stress", "virials") if options.get(f"{name}_key")}  # fmt: skip
    return {
        **files,
        "keys": keys,
        "valid_fraction": float(options.get("valid_fraction", 0.1)),
        "seed": int(options.get("seed", 123)),
        "fparam": _frame_quantities(options),
    }


def _frame_quantities(options: dict[str, Any]) -> tuple[str, ...]:
    """Names of the embeddings, with those that the files have for them."""
    specs = literal(options.get("embedding_specs")) or {}
    names = []
    for name, spec in specs.items():
        key = spec.get("key", options.get(f"{name}_key"))
        names.append(f"{name}={key}" if key and key != name else name)
    return tuple(names)
