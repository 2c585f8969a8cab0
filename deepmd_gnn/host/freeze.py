"""Checkpoints as frozen files."""

import contextlib
from pathlib import Path
from typing import Any

from deepmd_gnn.files.torch_fixes import scripting
from deepmd_gnn.files.whole_file import host_file
from deepmd_gnn.host.freezing import evaluated_by


def freeze(
    checkpoint: Path,
    output: Path,
    head: str | None = None,
    evaluation: str = "kernels",
    cpu: str | None = None,
) -> None:
    """Freeze a checkpoint.

    Parameters
    ----------
    checkpoint, output : Path
        The suffix of the output, ``.pth``, ``.pt2`` or ``.pte``, tells the kind.
    head : str, optional
        Branch of a multi-task checkpoint.
    evaluation, cpu : str
        Of a ``.pt2``, see :func:`~deepmd_gnn.host.freezing.evaluated_by`.
    """
    one_thread: Any = contextlib.nullcontext()
    if output.suffix == ".pth":
        from deepmd.pt.entrypoints.main import freeze as host_freeze

        one_thread = scripting
    else:
        from deepmd.pt_expt.entrypoints.main import freeze as host_freeze
    with evaluated_by(evaluation, cpu), one_thread, host_file(output) as unfinished:
        host_freeze(model=str(checkpoint), output=str(unfinished), head=head)
