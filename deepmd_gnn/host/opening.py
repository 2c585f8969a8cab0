"""How the host's Python inference opens exported files of our models: directly, where torch takes a way round and warns.

For a ``.pt2`` torch first tries a stricter reader, which wants nothing but its own members in the archive, calls the file
outdated, and then opens it as is done here. A ``.pte`` is read as it should be, after a complaint about its name.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepmd_gnn.files.backend_guard import holds_mace
from deepmd_gnn.files.torch_fixes import opening_directly


def without_alarm(original: Callable[..., Any]) -> Callable[..., Any]:
    """Open files of our models without warnings that mean nothing; other files are opened as ever.

    Parameters
    ----------
    original : Callable
        A function of the host whose last argument is a ``.pt2`` or ``.pte``.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def open_file(*args: Any) -> Any:
        if not holds_mace(Path(args[-1])):
            return original(*args)
        with opening_directly():
            return original(*args)

    return open_file
