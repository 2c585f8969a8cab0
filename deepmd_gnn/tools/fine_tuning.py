"""Fine-tuning of a foundation model: where it starts, what it is trained on, and what becomes of it.

With replay the new data are one task and frames that the foundation has labelled itself another; both share the network, so that the
first cannot lead it away from what it knew. Afterwards the new task is a model of its own.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from deepmd_gnn.config.adapters import lora
from deepmd_gnn.datasets.conversion import Conversion, convert
from deepmd_gnn.datasets.database import read_database
from deepmd_gnn.datasets.extxyz import write_extxyz
from deepmd_gnn.datasets.folders import read_systems
from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.labels import LabelReader
from deepmd_gnn.datasets.sources import read_frames
from deepmd_gnn.datasets.summary import DataFolder, Part, summarise_folder
from deepmd_gnn.tools.batch_evaluation import BatchEvaluation
from deepmd_gnn.tools.best_checkpoint import Stop, early_stop
from deepmd_gnn.tools.result_files import read_learning_curve
from deepmd_gnn.tools.training_input import Choices, recipe, set_steps

NEW, REPLAY = "finetuned", "replay"
START = "start.pt"
PATIENCE = "_patience"
# Frames that E0 are estimated from.
_MOST = 500
_EPOCHS = 100
_STEPS = (1_000, 50_000)
# Checkpoints of which the best is taken.
_KEPT = 20


@dataclass(frozen=True)
class Job:
    """What the user wants."""

    folder: Path
    """Of all files; does not exist."""
    replay: int = 0
    """Frames that the foundation labels."""
    replay_from: tuple[Path, ...] = ()
    """Files of these frames; without, training frames are perturbed."""
    replay_weight: float = 0.3
    """Share of the steps."""
    displacement: float = 0.1
    """Standard deviation of what is added to each coordinate of perturbed frames, Å."""
    adapters: int | None = None
    """Rank of adapters that are trained instead of the weights."""
    freeze: tuple[str, ...] = ()
    """Parts that are not trained."""
    rate: float | None = None
    """Learning rate of the first step."""
    steps: int | None = None
    seed: int = 1
    patience: int = 5
    """Validations without a smaller error after which the training ends; 0: never."""


def training_frames(part: Part) -> Iterator[Frame]:
    """Frames of a part of a data folder, or of its database, in order."""
    if part.is_database:
        yield from read_database(Path(str(part.systems)))
        return
    for system in part.systems:
        yield from read_systems(Path(system))


def estimated_energies(
    before: dict[str, float], potential: Any, part: Part
) -> tuple[dict[str, float], float]:
    """E0 of another level of theory: least squares of what its energies differ from the foundation's own.

    Parameters
    ----------
    before : dict[str, float]
        The foundation's E0, eV.
    potential : deepmd.infer.DeepPot
        The foundation.
    part : Part
        Data with energies.

    Returns
    -------
    energies : dict[str, float]
        eV, by element of the data. What the compositions leave open stays as near as possible to the foundation's.
    rest : float
        Root mean square of what is left, eV/atom.
    """
    reader, rows, shifts = LabelReader(), [], []
    evaluation = BatchEvaluation([potential], mixed_pbc="vacuum")
    every = max(1, part.frames // _MOST)  # of all systems
    for frame, prediction in evaluation(islice(training_frames(part), 0, None, every)):
        energy = reader.read(frame).energy
        if energy is None or prediction is None:
            continue
        symbols = frame_symbols(frame)
        rows.append([symbols.count(name) for name in part.type_map])
        shifts.append(energy - prediction.energy)
    if not rows:
        return {}, 0.0
    table, target = np.array(rows, dtype=float), np.array(shifts)
    found = np.linalg.lstsq(table, target, rcond=None)[0]
    rest = (target - table @ found) / table.sum(axis=1)
    energies = {name: before[name] + float(shift) for name, shift in zip(part.type_map, found, strict=True)}
    return energies, float(np.sqrt(np.mean(rest**2)))


def frame_symbols(frame: Frame) -> list[str]:
    """Elements of the atoms."""
    return [chemical_symbols[number] for number in frame.numbers.tolist()]


def perturbed(frames: Iterable[Frame], number: int, displacement: float, seed: int) -> list[Frame]:
    """Frames near those that there are: every coordinate moved at random, cells strained by up to a few per cent.

    Parameters
    ----------
    frames : Iterable[Frame]
        Taken in turns.
    number : int
        How many to make.
    displacement : float
        Standard deviation, Å.
    seed : int
        Of the random numbers.

    Returns
    -------
    list[Frame]
        Without labels.
    """
    rng = np.random.default_rng(seed)
    known = list(islice(frames, number))
    made = []
    for k in range(number if known else 0):
        frame = known[k % len(known)]
        positions, cell = frame.positions, frame.cell
        if any(frame.pbc):
            strain = np.eye(3) + rng.normal(0.0, 0.01, (3, 3))
            positions, cell = positions @ strain, cell @ strain
        positions = positions + rng.normal(0.0, displacement, positions.shape)
        made.append(Frame(frame.source, frame.index, frame.numbers, positions, cell, frame.pbc))
    return made


def label(potential: Any, frames: Iterable[Frame], path: Path) -> int:
    """Write frames with the foundation's energies, forces and stresses; return how many.

    Parameters
    ----------
    potential : deepmd.infer.DeepPot
        The foundation.
    frames : Iterable[Frame]
        Their own labels are not used.
    path : Path
        Extended XYZ.

    Returns
    -------
    int
        Frames.
    """
    evaluation = BatchEvaluation([potential], mixed_pbc="vacuum")

    def labelled() -> Iterator[Frame]:
        for frame, prediction in evaluation(frames):
            if prediction is None:
                continue
            info: dict[str, Any] = {"REF_energy": prediction.energy}
            if prediction.virial is not None:
                info["REF_virials"] = prediction.virial.reshape(9)
            yield Frame(
                frame.source, frame.index, frame.numbers, frame.positions, frame.cell, frame.pbc, info,
                {"REF_forces": prediction.forces},
            )  # fmt: skip

    with path.open("w") as file:
        return write_extxyz(file, labelled())


def replay_data(potential: Any, frames: list[Frame], folder: Path) -> DataFolder:
    """Label frames, and write a data folder of them."""
    file = folder / "replay.xyz"
    label(potential, frames, file)
    # Half of them are near each other by intention; no doubts are raised about that.
    convert(Conversion({"train": [file]}, valid_fraction=0.0, mixed_pbc="vacuum"), folder / REPLAY)
    return summarise_folder(folder / REPLAY)


def choices(sections: dict[str, Any], data: DataFolder, replay: DataFolder | None, job: Job) -> Choices:
    """The input: the recipe for new models, with a gentle rate, and steps that suit few data.

    Parameters
    ----------
    sections : dict[str, Any]
        Model section of the foundation with the elements of the data, in either spelling: with ``shared_dict`` and ``model_dict`` for replay.
    data : DataFolder
        The user's.
    replay : DataFolder, optional
        Labelled by the foundation.
    job : Job
        What the user wants.

    Returns
    -------
    Choices
    """
    found = recipe(data)
    extra: dict[str, Any] = {}
    if job.adapters is not None:
        chosen = lora({"rank": job.adapters})
        assert chosen is not None
        extra["adapters"] = {"rank": chosen.rank, "alpha": chosen.alpha}
    if job.freeze:
        extra["freeze"] = list(job.freeze)
    found.values["model"] = {**sections, **extra}
    found.reasons["model"] = {} if replay else {"type": f"of the foundation model; E0 are in {START}"}
    rate = job.rate or (5e-3 if job.adapters is not None else 1e-3)
    found.values["learning_rate"], found.reasons["learning_rate"] = {}, {}
    found.set(
        "learning_rate", "type", "cosine", "gentle: a tenth of that of a new model, down to a hundredth of it"
    )
    found.set("learning_rate", "start_lr", rate)
    found.set("learning_rate", "stop_lr", rate / 100)
    size = found.values["training"]["training_data"]["batch_size"]
    steps = job.steps or int(min(max(_EPOCHS * data.train.frames / size, _STEPS[0]), _STEPS[1]))
    share = 1.0 - (job.replay_weight if replay is not None else 0.0)
    set_steps(
        found,
        steps,
        f"{steps * share * size / data.train.frames:.0f} times through the {data.train.frames} new frames",
    )
    every = max(1, steps // _KEPT)
    found.set("training", "disp_freq", every)
    found.set(
        "training",
        "save_freq",
        every,
        "each with its validation error: the best of these becomes finetuned.pt",
    )
    found.set("training", "max_ckpt_keep", _KEPT + 2)
    # A comment for DeePMD-kit, which has no such option.
    found.set("training", PATIENCE, job.patience)
    found.set("training", "change_bias_after_training", False, "E0 are those of start.pt")
    found.set("training", "seed", job.seed)
    found.set("training", "save_ckpt", "model.ckpt")
    return found if replay is None else _two_tasks(found, sections, replay, job)


def _two_tasks(one: Choices, sections: dict[str, Any], replay: DataFolder, job: Job) -> Choices:
    """Rewrite an input for the new data and the replayed frames."""
    training, loss = dict(one.values["training"]), dict(one.values["loss"])
    data = {key: training.pop(key) for key in ("training_data", "validation_data") if key in training}
    other = recipe(replay).values
    frozen = {"freeze": list(job.freeze)} if job.freeze else {}
    shared = dict(sections["shared_dict"])
    shared["network"] = {**shared["network"], **frozen}
    two = Choices({"model": {**sections, "shared_dict": shared}}, {})
    for section in ("learning_rate", "optimizer"):
        two.values[section] = one.values[section]
    two.values["loss_dict"] = {NEW: loss, REPLAY: other["loss"]}
    share = job.replay_weight
    two.values["training"] = {
        "data_dict": {NEW: data, REPLAY: {"training_data": other["training"]["training_data"]}},
        "model_prob": {NEW: 1.0 - share, REPLAY: share},
        **training,
    }
    two.reasons = {"learning_rate": one.reasons["learning_rate"], "training": {
        "model_prob": f"shares of the steps: {replay.train.frames} frames labelled by the foundation keep what it knew",
        "numb_steps": one.reasons["training"]["numb_steps"],
    }}  # fmt: skip
    return two


def check_replay(data: DataFolder, new: Iterable[str]) -> None:
    """Refuse a replay of training frames with elements that the foundation does not know.

    Parameters
    ----------
    data : DataFolder
        The user's.
    new : Iterable[str]
        Such elements.

    Raises
    ------
    DataError
        If there are any.
    """
    if set(new):
        known = sorted(set(data.train.type_map) - set(new))
        raise DataError(
            f"--replay: the foundation does not know {', '.join(new)}, and cannot label training frames. Give --replay-from with "
            f"structures of {' '.join(known)}."
        )


def replay_frames(data: DataFolder, job: Job, new: Iterable[str] = ()) -> list[Frame]:
    """Structures for the replay: some of the user's files, or training frames that are perturbed.

    Parameters
    ----------
    data : DataFolder
        The user's.
    job : Job
        What the user wants.
    new : Iterable[str]
        Elements that the foundation does not know, and cannot label.

    Returns
    -------
    list[Frame]

    Raises
    ------
    DataError
        If no frame fits.
    """
    known = set(data.train.type_map) - set(new)
    if not job.replay_from:
        count = min(job.replay, data.train.frames)
        drawn = set(np.random.default_rng(job.seed).permutation(data.train.frames)[:count].tolist())
        frames = (frame for place, frame in enumerate(training_frames(data.train)) if place in drawn)
        return perturbed(frames, job.replay, job.displacement, job.seed)
    pool = [frame for path in job.replay_from for frame in read_frames(path)]
    fitting = [frame for frame in pool if set(frame_symbols(frame)) <= known and frame.natoms > 1]
    if not fitting:
        raise DataError(
            f"{', '.join(map(str, job.replay_from))}: none of {len(pool)} frames has only elements of data and foundation, {' '.join(sorted(known))}."
        )
    places = np.random.default_rng(job.seed).permutation(len(fitting))[: job.replay]
    return [fitting[place] for place in sorted(places)]


def patience(folder: Path) -> int:
    """Validations without a smaller error after which the training in a folder ends; 0: never."""
    found = json.loads((folder / "input.json").read_text())["training"].get(PATIENCE, 0)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise DataError(
            f"{folder / 'input.json'}: {PATIENCE} of training is {found!r}, but must be a number of validations."
        )
    return found


def ended_early(folder: Path) -> Stop | None:
    """Where the training in a folder ended for want of smaller validation errors, if it did."""
    wanted, curve = patience(folder), folder / "lcurve.out"
    return early_stop(read_learning_curve(curve), wanted) if wanted and curve.is_file() else None


def is_finished(folder: Path) -> bool:
    """Whether the training in a folder has done all its steps, or need not do more."""
    import torch

    checkpoint = folder / "model.ckpt.pt"
    if not checkpoint.is_file():
        return False
    wanted = json.loads((folder / "input.json").read_text())["training"]["numb_steps"]
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    done = int(state["_extra_state"]["train_infos"]["step"])
    stop = ended_early(folder)
    return done >= int(wanted) or (stop is not None and done >= stop.step)
