"""Import order: let e3nn 0.4.4 be imported under torch 2.11, and the host import us while we import it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WEIGHTS_ONLY = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def allow_e3nn_constants() -> None:
    """Allow ``slice`` in weights-only files.

    e3nn 0.4.4 keeps its Wigner matrices in a file that holds Python slices; torch >= 2.6 refuses to read it and
    with it every ``import deepmd.pt.model.model`` fails, because DeePMD-kit imports e3nn for its own models.
    A slice carries no code, so admitting it is safe. Must run before e3nn is first imported.
    """
    torch.serialization.add_safe_globals([slice])


@contextmanager
def unchanged_environment() -> Iterator[None]:
    """Undo what ``import mace`` does to the environment.

    It sets ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD``, which would turn off torch's protection against code in files
    for the whole process.
    """
    before = os.environ.get(_WEIGHTS_ONLY)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_WEIGHTS_ONLY, None)
        else:
            os.environ[_WEIGHTS_ONLY] = before


def is_importing_model() -> bool:
    """Tell whether ``deepmd_gnn.mace`` is on the import stack, half initialised.

    DeePMD-kit's model package loads our entry points while it is being imported, and the model needs that package.
    """
    module = sys.modules.get("deepmd_gnn.mace")
    return module is not None and not hasattr(module, "MaceModel")
