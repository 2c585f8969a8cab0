"""Files that take long to make: made once, by whichever worker needs one first, and kept for the next run of the tests.

What is kept is found under a hash of everything that it is made from, so that nothing stale is ever read. A clean
clone has nothing kept. ``DEEPMD_GNN_TEST_CACHE=off`` keeps nothing; another value is the folder to keep it in.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
VARIABLE = "DEEPMD_GNN_TEST_CACHE"


@functools.cache
def fingerprint():
    """Hash of the package, of the tests' own modules, of the libraries and of compiler and CPU."""
    digest = hashlib.sha256()
    sources = [*(ROOT / "deepmd_gnn").rglob("*"), *(ROOT / "tests").glob("*.py")]
    for path in sorted(path for path in sources if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    libraries = [f"{name} {version(name)}" for name in ("torch", "deepmd-kit", "mace-torch", "e3nn", "numpy")]
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=False).stdout
    with contextlib.suppress(OSError):
        digest.update(_cpu().encode())
    digest.update("\n".join([platform.python_version(), compiler, *libraries]).encode())
    return digest.hexdigest()[:32]


def _cpu():
    """Model and instructions: compiled files are for this CPU."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def kept_folder(config, temporary):
    """Folder of what is kept between runs; without it, one that all workers of this run share.

    Parameters
    ----------
    config : pytest.Config
        Knows pytest's own cache.
    temporary : Path
        Of this run, shared by its workers.
    """
    where = os.environ.get(VARIABLE, "")
    if where == "off" or (not where and not hasattr(config, "cache")):  # pytest -p no:cacheprovider
        return temporary
    root = Path(where) if where else config.cache.mkdir("shared_files")
    folder = root / fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def remove_old(config):
    """Remove what was kept for other versions; for the one process that starts the workers."""
    if not os.environ.get(VARIABLE) and hasattr(config, "cache"):
        for folder in config.cache.mkdir("shared_files").iterdir():
            if folder.name != fingerprint():
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def lock(path):
    """Wait until no other process is inside for the same path; the system lets go if a process ends."""
    with open(f"{path}.lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def once(path, make):
    """The file or folder at a path, after ``make(unfinished)`` has written it if it was not there.

    Parameters
    ----------
    path : Path
        What is shared.
    make : callable
        Writes to the path it is given, which has the same suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path):
        if not path.exists():
            unfinished = path.with_name(f"unfinished_{path.name}")
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            make(unfinished)
            unfinished.replace(path)
    return path
