"""A complete input for ``dp train``, with a reason for every choice."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deepmd_gnn.config.embeddings import INFO_KEYS
from deepmd_gnn.datasets.summary import DataFolder, Part

# Channels and highest l of the node features.
SIZES = {"small": (64, 0), "medium": (64, 1), "large": (128, 1)}
_ATOMS_PER_BATCH = 128
_MOST_FRAMES = 32
_EPOCHS = 200
_STEPS = (20_000, 400_000)
# Charges and spins as classes of their own up to this number; width of their embeddings, native's.
_CLASSES, _WIDTH = 50, 16
# Neighbours within r_max: fewer see too little, more cost without gain.
_FEW, _MANY = 25, 65


@dataclass
class Choices:
    """An input with comments: ``values[section][key]``, ``reasons[section][key]``."""

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)

    def set(self, section: str, key: str, value: Any, reason: str | None = None) -> None:
        """Choose a value; without a reason the earlier one stays."""
        self.values.setdefault(section, {})[key] = value
        if reason is not None:
            self.reasons.setdefault(section, {})[key] = reason

    def drop(self, section: str, key: str) -> None:
        """Take a key out."""
        self.values.get(section, {}).pop(key, None)
        self.reasons.get(section, {}).pop(key, None)

    def override(self, path: str, value: Any) -> None:
        """Set what the user has given as ``section.key``."""
        section, _, key = path.partition(".")
        if not key or section not in self.values:
            raise ValueError(f"--set {path}: must be SECTION.KEY with one of {', '.join(self.values)}.")
        *inner, last = key.split(".")
        target = self.values[section]
        for name in inner:
            target = target.setdefault(name, {})
        target[last] = value
        self.reasons.setdefault(section, {})[key.split(".")[0]] = f"{key}: given by --set"

    def as_json(self) -> str:
        """JSON, in which a key that begins with an underscore is a comment (DeePMD-kit passes over it)."""
        merged: dict[str, Any] = {}
        for section, values in self.values.items():
            merged[section] = {}
            reasons = self.reasons.get(section, {})
            for key, value in values.items():
                if key in reasons:
                    merged[section][f"_{key}"] = reasons[key]
                merged[section][key] = value
        return json.dumps(merged, indent=2, ensure_ascii=False) + "\n"

    def as_yaml(self) -> str:
        """YAML with comment lines."""
        lines = []
        for section, values in self.values.items():
            lines.append(f"{section}:")
            reasons = self.reasons.get(section, {})
            for key, value in values.items():
                if key in reasons:
                    lines.append(f"  # {reasons[key]}")
                # In a list, because a number alone gets an end mark; json would write 1e-05, which YAML takes for a word.
                text = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**6)
                lines.append(f"  {key}: {text.strip()[1:-1]}")
        return "\n".join(lines) + "\n"


def recipe(data: DataFolder, size: str = "medium", e0: Path | None = None) -> Choices:
    """Choose everything for a data folder.

    Parameters
    ----------
    data : DataFolder
        What there is to train on.
    size : str
        Key of :data:`SIZES`.
    e0 : Path, optional
        File with energies of isolated atoms; by default that of the folder.

    Returns
    -------
    Choices
    """
    choices = Choices()
    _model(choices, data, size, e0 or data.e0)
    _learning_rate(choices)
    _loss(choices, data.train)
    _training(choices, data)
    return choices


def _model(choices: Choices, data: DataFolder, size: str, e0: Path | None) -> None:
    part = data.train
    channels, max_l = SIZES[size]
    molecule = part.periodic == 0
    choices.set("model", "type", "mace")
    choices.set("model", "type_map", part.type_map, "the elements of the data, in the order of type_map.raw")
    r_max, reason = cutoff(part)
    choices.set("model", "r_max", r_max, reason)
    sizes = ", ".join(f"{name}: {one[0]} channels, max_L {one[1]}" for name, one in SIZES.items())
    choices.set("model", "num_channels", channels, f"size {size} ({sizes}); more is more accurate and slower")
    choices.set(
        "model", "max_L", max_l, "1 adds vectors to the features: more accurate, twice to four times the cost of 0"
    )  # fmt: skip
    choices.set("model", "max_ell", 3 if size == "large" else 2, "spherical harmonics of the edges; 3 is native's default")  # fmt: skip
    choices.set("model", "correlation", 3, "body order 4 in each layer, as in native MACE")
    if molecule:
        choices.set(
            "model", "precision", "float64", "molecules: small energy differences; float32 is faster for large systems"
        )  # fmt: skip
    else:
        choices.set(
            "model", "precision", "float32", "condensed phase: half the time; energies and geometry are summed in float64"
        )  # fmt: skip
    if part.quantities:
        _embeddings(choices, data)
    if e0 is not None:
        choices.set(
            "model", "atomic_energies", str(e0),
            "energies of isolated atoms, found in the data; elements that the file lacks are fitted",
        )  # fmt: skip
        return
    left = part.undetermined()
    reason = "least squares over the training data: there are no isolated atoms in the data folder (e0.json)"
    if left:
        reason += (
            f". The compositions leave {left} of {len(part.type_map)} energies open: right for these compositions, "
            "but for others or for bonds that break give energies of isolated atoms"
        )
    choices.set("model", "atomic_energies", "auto", reason)


def _embeddings(choices: Choices, data: DataFolder) -> None:
    """Quantities of frames: charges and spins as classes, which know only what was trained, others as numbers."""
    chosen: dict[str, dict[str, Any]] = {}
    ranges = []
    for name, column in zip(data.quantity_names, data.train.quantities, strict=True):
        ranges.append(f"{name} {column.least:g} to {column.most:g}")
        offset = max(0, -round(column.least))
        number = round(column.most) + offset + 1
        if name in INFO_KEYS and column.whole and 0 < number <= _CLASSES:
            chosen[name] = {"type": "categorical", "num_classes": number, "offset": offset, "emb_dim": _WIDTH}
        else:
            chosen[name] = {"type": "continuous", "emb_dim": _WIDTH}
    choices.set(
        "model", "embeddings", chosen,
        f"the columns of fparam.npy, with {', '.join(ranges)}: other values were not trained (docs/charges.md)",
    )  # fmt: skip


def cutoff(part: Part) -> tuple[float, str]:
    """Choose r_max from the density of the data.

    Parameters
    ----------
    part : Part
        Training data.

    Returns
    -------
    float, str
        Å, and why.
    """
    if not part.periodic or not part.volume_per_atom:
        return 5.0, "5 Å: molecules; a bond and three more; native's default"
    around = 4.18879 / part.volume_per_atom  # times r³: neighbours within r
    r_max = 5.0
    if around * 125 < _FEW:
        r_max = 6.0
    elif around * 125 > _MANY:
        r_max = max(4.0, round(2 * (_MANY / around) ** (1 / 3)) / 2)
    neighbors = around * r_max**3
    return r_max, f"{r_max:g} Å: about {neighbors:.0f} neighbours at the mean density of the data ({_FEW} to {_MANY} are usual)"  # fmt: skip


def _learning_rate(choices: Choices) -> None:
    reason = (
        "native's 0.01 for half of the steps, then a straight line down, in place of native's second stage"
    )
    choices.set("learning_rate", "type", "wsd", reason)
    for key, value in {"decay_type": "linear", "decay_phase_ratio": 0.5, "start_lr": 0.01, "stop_lr": 1e-5}.items():  # fmt: skip
        choices.set("learning_rate", key, value)
    choices.set("optimizer", "type", "Adam", "as in native MACE")


def _loss(choices: Choices, part: Part) -> None:
    energies, forces, virials = (part.labels.get(name, 0) for name in ("energy", "force", "virial"))
    choices.set("loss", "type", "ener")
    limit = 100 if virials else 1000
    if energies:
        choices.set(
            "loss", "start_pref_e", 1, "forces first: the weight of energies grows as the learning rate falls"
        )  # fmt: skip
        choices.set("loss", "limit_pref_e", limit)
    else:
        choices.set("loss", "start_pref_e", 0, "no energies in the data")
        choices.set("loss", "limit_pref_e", 0)
    weight = 100 if forces else 0
    choices.set("loss", "start_pref_f", weight, None if forces else "no forces in the data")
    choices.set("loss", "limit_pref_f", weight)
    if virials:
        choices.set(
            "loss", "start_pref_v", 3, f"{virials} of {part.frames} training frames have virials; the others are not affected"
        )  # fmt: skip
        choices.set("loss", "limit_pref_v", 10)
    else:
        choices.set("loss", "start_pref_v", 0, "no virials in the data: do not run NPT with this model")
        choices.set("loss", "limit_pref_v", 0)
    choices.set(
        "loss", "intensive_ener_virial", True, "errors of energies and virials per atom, as in native MACE"
    )  # fmt: skip


def batch_size(part: Part) -> int:
    """Frames of a batch: about :data:`_ATOMS_PER_BATCH` atoms."""
    return max(1, min(_MOST_FRAMES, part.frames, round(_ATOMS_PER_BATCH / part.mean_size)))


def _training(choices: Choices, data: DataFolder) -> None:
    part = data.train
    size = batch_size(part)
    training: dict[str, Any] = {"systems": part.systems, "batch_size": size}
    if part.nsystems > 1:
        training["auto_prob"] = "prob_sys_size"
    reason = f"about {_ATOMS_PER_BATCH} atoms a batch ({part.mean_size:.3g} atoms a frame)"
    if part.nsystems > 1:
        reason += "; prob_sys_size draws every frame equally often"
    choices.set("training", "training_data", training, reason)
    if data.valid is not None:
        valid = data.valid
        frames = max(1, min(valid.frames, 2 * size))
        number = max(1, min(20, -(-valid.frames // frames)))
        choices.set(
            "training",
            "validation_data",
            {"systems": valid.systems, "batch_size": frames, "numb_btch": number},
            f"{min(valid.frames, frames * number)} of {valid.frames} validation frames for each line of lcurve.out",
        )
    set_steps(choices, *_steps(part, size))
    choices.set("training", "gradient_max_norm", 10.0, "as in native MACE")
    fitted = choices.values["model"]["atomic_energies"] == "auto"
    if fitted and part.labels.get("energy"):
        choices.set(
            "training", "change_bias_after_training", True,
            "takes away the constant energy per atom that force-weighted training leaves",
        )  # fmt: skip
    elif not fitted:
        choices.set(
            "training", "change_bias_after_training", False, "keeps the energies of the isolated atoms as they are"
        )  # fmt: skip
    choices.set("training", "seed", 1, "of weights and order of frames; members of a committee differ here")


def _steps(part: Part, size: int) -> tuple[int, str]:
    epochs = _EPOCHS * part.frames / size
    steps = int(min(max(epochs, _STEPS[0]), _STEPS[1]))
    return steps, f"{steps * size / part.frames:.0f} times through {part.frames} frames; --time sets it from a time budget"  # fmt: skip


def set_steps(choices: Choices, steps: int, reason: str) -> None:
    """Set the number of steps, and what goes with it."""
    steps = max(1, steps)
    choices.set("training", "numb_steps", steps, reason)
    choices.set("training", "disp_freq", max(1, min(100, steps // 20)))
    choices.set("training", "save_freq", max(1, min(2000, steps)))


def add_virials_weight(choices: Choices, start: float, limit: float, reason: str) -> None:
    """Weight virials as told."""
    choices.set("loss", "start_pref_v", start, reason)
    choices.set("loss", "limit_pref_v", limit)
