"""Frames and errors for :mod:`forgetting`: parts of files, other levels of theory, root mean square errors of a checkpoint."""

import re
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

from deepmd_gnn.datasets.conversion import Conversion, convert
from deepmd_gnn.datasets.extxyz import write_extxyz
from deepmd_gnn.datasets.folders import find_systems
from deepmd_gnn.datasets.frames import Frame
from deepmd_gnn.datasets.labels import LabelReader
from deepmd_gnn.datasets.sources import read_frames

_CHUNK = 16  # frames of a call


class Level:
    """Another level of theory: energies and their derivatives times a factor, and a shift for each element.

    Parameters
    ----------
    scale : float
        The factor.
    shifts : list[str]
        ``H=1.5`` and so on, eV.
    """

    def __init__(self, scale, shifts):
        self.scale = scale
        self.shifts = {
            atomic_numbers[name]: float(value) for name, value in (one.split("=") for one in shifts)
        }

    def __call__(self, frame):
        """The frame with its labels at this level, under the package's names."""
        labels = LabelReader().read(frame)
        shift = sum(self.shifts.get(number, 0.0) for number in frame.numbers.tolist())
        info = {"REF_energy": self.scale * labels.energy + shift}
        if labels.virial is not None:
            info["REF_virials"] = self.scale * labels.virial.reshape(9)
        arrays = {"REF_forces": self.scale * labels.forces}
        return Frame(
            frame.source, frame.index, frame.numbers, frame.positions, frame.cell, frame.pbc, info, arrays
        )


def labelled(sources, level, count=None):
    """Frames of files and folders, isolated atoms left out.

    Parameters
    ----------
    sources : list[str]
        Paths, with ``@START:STOP:STEP`` for a part.
    level : Level
        Of the labels.
    count : int, optional
        At most so many: the first ones of each folder of DeePMD-kit, as evenly as there are, and evenly from parts and files.

    Returns
    -------
    list[Frame]
    """
    parts = []
    for source in sources:
        path, _, part = str(source).partition("@")
        systems = find_systems(Path(path)) if Path(path).is_dir() else []
        if part or not systems:
            ends = [int(word) if word else None for word in part.split(":")] if part else [None]
            frames = list(read_frames(Path(path)))[slice(*ends)]
            parts.append(frames if count is None else evenly(frames, max(1, count // len(sources))))
        else:
            parts += [list(read_frames(Path(system))) for system in systems]
    if count is not None:
        parts = [frames[: max(1, count // len(parts))] for frames in parts]
    found = [frame for frames in parts for frame in frames if frame.natoms > 1]
    return [level(frame) for frame in (found if count is None else evenly(found, count))]


def evenly(frames, count):
    """At most `count` of them, from all over the list."""
    if len(frames) <= count:
        return frames
    return [frames[k] for k in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def write_folder(folder, train, valid):
    """A data folder of ``deepmd-gnn data``."""
    files = {}
    folder.mkdir(parents=True)
    for name, frames in (("train", train), ("valid", valid)):
        files[name] = [folder / f"{name}.xyz"]
        with files[name][0].open("w") as file:
            write_extxyz(file, frames)
    convert(Conversion(files, mixed_pbc="vacuum"), folder / "data")
    return folder / "data"


def predicted(model, frames):
    """Energies, a list, and forces, a list of arrays, in the order of the frames."""
    names = model.get_type_map()
    kinds: dict[tuple, list[int]] = {}
    for place, frame in enumerate(frames):
        kinds.setdefault((any(frame.pbc), *frame.numbers.tolist()), []).append(place)
    energies, forces = [0.0] * len(frames), [None] * len(frames)
    for (periodic, *numbers), places in kinds.items():
        types = [names.index(chemical_symbols[number]) for number in numbers]
        for begin in range(0, len(places), _CHUNK):
            some = places[begin : begin + _CHUNK]
            coord = torch.tensor(np.stack([frames[k].positions for k in some]))
            box = torch.tensor(np.stack([frames[k].cell.reshape(9) for k in some])) if periodic else None
            out = model(coord, torch.tensor([types] * len(some)), box)
            for k, energy, force in zip(some, out["energy"], out["force"], strict=True):
                energies[k], forces[k] = float(energy.detach()), force.detach().numpy()
    return energies, forces


def errors(model, frames, *, fitted):
    """Root mean square errors.

    Parameters
    ----------
    model : MaceModel
        In eval mode.
    frames : list[Frame]
        With labels.
    fitted : bool
        Whether a least squares fit of an energy for each element is taken out first.

    Returns
    -------
    list[float]
        Energy in meV/atom and force in meV/Å.
    """
    if not frames:
        return [float("nan")] * 2
    energies, forces = predicted(model, frames)
    numbers = sorted({number for frame in frames for number in frame.numbers.tolist()})
    table = np.array(
        [[(frame.numbers == number).sum() for number in numbers] for frame in frames], dtype=float
    )
    rest = np.array([frame.info["REF_energy"] for frame in frames]) - energies
    if fitted:
        rest = rest - table @ np.linalg.lstsq(table, rest, rcond=None)[0]
    differences = [force - frame.arrays["REF_forces"] for force, frame in zip(forces, frames, strict=True)]
    per_atom = rest / table.sum(1)
    return [
        1e3 * float(np.sqrt(np.mean(per_atom**2))),
        1e3 * float(np.sqrt(np.mean(np.concatenate(differences) ** 2))),
    ]


def named(sources):
    """``NAME=PATH`` as a dict."""
    found = {}
    for source in sources:
        name, path = re.fullmatch(r"([^=]+)=(.+)", source).groups()
        found[name] = path
    return found
