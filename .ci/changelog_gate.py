"""Fail if the package changed since a base commit and ``CHANGELOG.md`` did not.

Ways out, for changes that no user notices: a commit with the trailer ``Changelog: none``, or in a pull request the label
``no changelog``, with which the workflow does not run this. Run as ``python .ci/changelog_gate.py [BASE]``.
"""

import argparse
import subprocess

PACKAGE, CHANGELOG, TRAILER = "deepmd_gnn/", "CHANGELOG.md", "Changelog"
# The first of them that exists is the base if none is given.
BASES = ("origin/main", "main")


def git(*arguments: str) -> str:
    """Output of a git command; a failing one ends the program with git's own message.

    Parameters
    ----------
    *arguments : str
        Of git.

    Returns
    -------
    str
    """
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"changelog gate: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def lacking(changed: list[str], trailers: list[str]) -> list[str]:
    """Changed files of the package that the changelog does not account for.

    Parameters
    ----------
    changed : list[str]
        Paths that differ from the base.
    trailers : list[str]
        Values of the trailer in the commits since.

    Returns
    -------
    list[str]
        Empty if all is well.
    """
    if CHANGELOG in changed or any(value.strip().lower() == "none" for value in trailers):
        return []
    return [path for path in changed if path.startswith(PACKAGE)]


def known_base() -> str | None:
    """The first of :data:`BASES` that this repository has."""
    for name in BASES:
        found = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", name], capture_output=True, check=False
        )
        if found.returncode == 0:
            return name
    return None


def main(base: str | None) -> None:
    """Compare the present commit with where it left the base.

    Parameters
    ----------
    base : str, optional
        A name that git knows.

    Raises
    ------
    SystemExit
        With a message, if the changelog lacks a line.
    """
    base = base or known_base()
    if base is None:  # a copy with one branch of another name
        return
    changed = git("diff", "--name-only", f"{base}...HEAD").splitlines()
    trailers = git("log", f"--format=%(trailers:key={TRAILER},valueonly)", f"{base}..HEAD").splitlines()
    missing = lacking(changed, trailers)
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise SystemExit(
            f"changelog gate: {shown} changed since {base}, {CHANGELOG} did not. Add a line under Unreleased, or, if no "
            f"user notices the change, end a commit message with the trailer '{TRAILER}: none'."
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", nargs="?", help="branch or commit; by default the main branch")
    main(parser.parse_args().base)
