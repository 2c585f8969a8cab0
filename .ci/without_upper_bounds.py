"""Remove the upper bounds of the dependencies in ``pyproject.toml``, for the weekly job with the newest packages.

Run as ``python .ci/without_upper_bounds.py`` in a copy that is thrown away: the file is overwritten.
"""

import re
from pathlib import Path


def without_upper_bounds(text: str) -> str:
    """Relax what is pinned or bounded from above, in the strings of a dependency list.

    Parameters
    ----------
    text : str
        A ``pyproject.toml``.

    Returns
    -------
    str
        With ``a>=1,<2`` as ``a>=1``, and ``a==1.2.*``, ``a==1.2`` and ``a~=1.2`` as ``a>=1.2``.
    """
    text = re.sub(r'^(\s*"[A-Za-z0-9_.\[\]-]+>=[^",;]+),\s*<[^",;]+', r"\1", text, flags=re.MULTILINE)
    return re.sub(
        r'^(\s*"[A-Za-z0-9_.\[\]-]+)[=~]=([^",;*]+?)(?:\.\*)?(?=[",;])', r"\1>=\2", text, flags=re.MULTILINE
    )


if __name__ == "__main__":
    path = Path("pyproject.toml")
    path.write_text(without_upper_bounds(path.read_text(encoding="utf-8")), encoding="utf-8")
