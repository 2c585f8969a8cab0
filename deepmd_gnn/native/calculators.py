"""ASE calculators of foundation models by name, in place of mace-torch's functions of the same names."""

import hashlib
from pathlib import Path
from typing import Any

from deepmd_gnn import __version__
from deepmd_gnn.files.whole_file import whole_file
from deepmd_gnn.native.catalogue import cache_folder, fetch
from deepmd_gnn.native.conversion import convert, sha256_of

_DEFAULT_MP, _DEFAULT_OFF = "medium-mpa-0", "medium"


def mace_mp(
    model: str | Path | None = None,
    default_dtype: str = "float32",
    head: str | None = None,
    *,
    compiled: bool = False,
    **options: Any,
) -> Any:
    """ASE calculator of a materials model.

    Parameters
    ----------
    model : str or Path, optional
        A name that mace-torch's ``mace_mp`` knows (``"small"``, ``"medium-mpa-0"``, …; default: that), or a native file.
    default_dtype : str
        ``"float32"`` or ``"float64"``.
    head : str, optional
        Of a model with several.
    compiled : bool
        Convert to ``.pt2``: a minute or two once, and about ten times faster.
    **options : Any
        For ``deepmd.calculator.DP``.

    Returns
    -------
    deepmd.calculator.DP
        What is converted is kept in mace-torch's cache, so that the second call is immediate.
    """
    return _calculator("mace-mp", model or _DEFAULT_MP, default_dtype, head, compiled, options)


def mace_off(
    model: str | Path | None = None,
    default_dtype: str = "float64",
    *,
    compiled: bool = False,
    **options: Any,
) -> Any:
    """ASE calculator of a model of organic molecules, under the Academic Software License.

    Parameters
    ----------
    model : str or Path, optional
        ``"small"``, ``"medium"`` (default), ``"large"``, or a native file.
    default_dtype, compiled, **options
        As for :func:`mace_mp`.

    Returns
    -------
    deepmd.calculator.DP
    """
    return _calculator("mace-off", model or _DEFAULT_OFF, default_dtype, None, compiled, options)


def _calculator(
    family: str, model: str | Path, precision: str, head: str | None, compiled: bool, options: dict[str, Any]
) -> Any:
    from deepmd.calculator import DP

    source = Path(model) if Path(model).is_file() else fetch(f"{family}:{model}")
    digest = hashlib.sha256(f"{sha256_of(source)} {precision} {head} {__version__}".encode())
    suffix = ".pt2" if compiled else ".pth"
    kept = cache_folder() / "deepmd_gnn" / f"{source.stem}-{digest.hexdigest()[:16]}{suffix}"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(kept) as unfinished:
            convert(source, unfinished, head, precision=precision)
    return DP(str(kept), **options)
