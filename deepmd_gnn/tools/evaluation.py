"""A model file in Python, without what the packages around it print."""

import logging
import sys
import warnings
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepmd_gnn.files.archives import opened
from deepmd_gnn.files.model_files import KINDS, ModelFileError, file_kind
from deepmd_gnn.tools.checks import Evaluate, Results

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepmd_gnn.tools.structures import Structure


@contextmanager
def quiet() -> "Iterator[None]":
    """Keep stdout for the answer, and silence warnings of other packages."""
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def load_potential(path: Path, head: str | None = None) -> Any:
    """Load a model file with the host's Python inference.

    Parameters
    ----------
    path : Path
        Checkpoint or frozen model.
    head : str, optional
        Branch of a multi-task checkpoint.

    Returns
    -------
    deepmd.infer.DeepPot
        Evaluates as many frames at once as it is given.

    Raises
    ------
    ModelFileError
        If the name is that of another kind of file, or if torch cannot load it.
    """
    with opened(path) as archive:
        kind = file_kind(archive)
    if path.suffix == ".model":
        raise ModelFileError(
            f"{path}: is named as a model of native MACE, which DeePMD-kit does not read. Convert it: "
            f"`deepmd-gnn convert {path} -o {path.stem}.pth`."
        )
    if path.suffix != f".{kind}":
        raise ModelFileError(
            f"{path}: is a {KINDS[kind]}, but DeePMD-kit goes by the name. Rename it to {path.with_suffix(f'.{kind}').name}."
        )
    with quiet():
        from deepmd.infer import DeepPot

        try:
            return DeepPot(str(path), auto_batch_size=False, **({} if head is None else {"head": head}))
        except RuntimeError as error:
            if "mace model:" in str(error) or "memory" in str(error):
                raise  # the command has words of its own for these
            reason = " ".join(str(error).split())[:200]
            raise ModelFileError(
                f"{path}: torch cannot load it ({reason}). The file is probably damaged; write or copy it again."
            ) from error


def load_evaluation(path: Path, head: str | None = None) -> Evaluate:
    """Load a model file for one structure at a time.

    Parameters
    ----------
    path, head
        As for :func:`load_potential`.

    Returns
    -------
    Callable
        From a structure to its results.
    """
    model = load_potential(path, head)

    def evaluate(structure: "Structure") -> Results:
        box = None if structure.cell is None or not structure.periodic else structure.cell.reshape(1, 9)
        types = structure.with_type_map(model.get_type_map()).types
        with quiet():
            energy, force, virial, atom_energy, atom_virial = model.eval(
                structure.coord.reshape(1, -1), box, types, atomic=True
            )
        return Results(
            float(energy[0, 0]),
            np.asarray(force[0], dtype=float).reshape(-1, 3),
            np.asarray(virial[0], dtype=float).reshape(3, 3),
            np.asarray(atom_energy[0], dtype=float).reshape(-1),
            np.asarray(atom_virial[0], dtype=float).reshape(-1, 3, 3),
        )

    return evaluate
