"""Versions of the packages that write a model, kept in frozen files."""

from importlib.metadata import PackageNotFoundError, version

from deepmd_gnn import __version__

_PACKAGES = ("deepmd-kit", "torch", "mace-torch", "e3nn")


def package_versions() -> dict[str, str]:
    """Look up what is installed.

    Returns
    -------
    dict[str, str]
        Version by package name; packages that are not installed are left out.
    """
    found = {"deepmd-gnn": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
