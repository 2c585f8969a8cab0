"""From DeePMD-kit's data back to extended XYZ."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from deepmd_gnn.datasets.extxyz import write_extxyz
from deepmd_gnn.datasets.frames import Frame
from deepmd_gnn.datasets.sources import read_frames
from deepmd_gnn.files.whole_file import refuse_existing, whole_file


def export(
    folders: list[Path],
    output: Path,
    *,
    virials: bool = False,
    watch: Callable[[Iterable[Frame]], Iterable[Frame]] = iter,
) -> int:
    """Write all frames of folders to one file, with native MACE's names.

    Parameters
    ----------
    folders : list[Path]
        Systems, folders of them, or databases.
    output : Path
        Extended XYZ; an existing file is not overwritten.
    virials : bool
        Whether to write ``REF_virials`` instead of ``REF_stress``.
    watch : Callable
        Passes frames on and shows how far it is.

    Returns
    -------
    int
        Frames.

    Raises
    ------
    ValueError
        If the output exists, or a folder cannot be read.
    """
    refuse_existing(output)
    with whole_file(output) as unfinished, unfinished.open("w") as file:
        return write_extxyz(file, watch(_frames(folders, virials)))


def _frames(folders: list[Path], virials: bool) -> Iterator[Frame]:
    for folder in folders:
        for frame in read_frames(folder):
            virial = frame.info.get("REF_virials")
            if virial is not None and not virials:
                volume = abs(float(np.linalg.det(frame.cell)))
                frame.info["REF_stress"] = -np.asarray(frame.info.pop("REF_virials")) / volume
            frame.info["config_type"] = Path(frame.source).name
            yield frame
