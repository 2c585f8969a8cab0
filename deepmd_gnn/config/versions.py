"""Versions: of the packages that write a model, kept in its files; and of those this package works with. No torch here."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

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


def check_versions(installed: Mapping[str, str] | None = None) -> None:
    """Refuse packages of versions that this one does not work with.

    Parameters
    ----------
    installed : Mapping[str, str], optional
        Version by package name; by default those of this environment.

    Raises
    ------
    ImportError
        If deepmd-kit, torch, mace-torch or e3nn is missing or has a version outside what ``pyproject.toml`` asks for.
    """
    found = package_versions() if installed is None else installed
    wrong = []
    for requirement in _requirements():
        present = found.get(requirement.name)
        if present is None:
            wrong.append(f"{requirement.name}{requirement.specifier}, but it is not installed")
        elif not requirement.specifier.contains(present, prereleases=True):
            wrong.append(f"{requirement.name}{requirement.specifier}, but {present} is installed")
    if wrong:
        raise ImportError(
            f"deepmd-gnn {__version__} needs {'; and '.join(wrong)}. Install it into an environment of its own (`pip install .` in "
            "its checkout chooses versions that fit), or remove it from this one (pip uninstall deepmd-gnn)."
        )


def _requirements() -> list[Requirement]:
    """What the metadata of the installed package ask of the packages above."""
    try:
        declared = [Requirement(text) for text in requires("deepmd-gnn") or []]
    except PackageNotFoundError:  # run from a source folder that was never installed
        return []
    return [one for one in declared if one.name in _PACKAGES and one.marker is None]


def newer_writer(versions: Any) -> str | None:
    """Say that a file was written by a newer version of this package, if it was.

    Parameters
    ----------
    versions : Any
        What the file records: version by package name, or nothing.

    Returns
    -------
    str or None
        Words for a message, beginning with "was written by".
    """
    if not isinstance(versions, Mapping) or "deepmd-gnn" not in versions:
        return None
    writer = str(versions["deepmd-gnn"])
    try:
        if Version(writer) <= Version(__version__):
            return None
    except InvalidVersion:
        return None
    return (
        f"was written by deepmd-gnn {writer}, which is newer than this {__version__}, and cannot be read by it. Update "
        "deepmd-gnn, or write the file with the older version"
    )
