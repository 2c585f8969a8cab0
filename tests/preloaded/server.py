"""Python processes that begin where imports have ended: this program imports them once, and forks for each.

A third of the time of all tests went into importing torch, DeePMD-kit and mace-torch in some hundred processes. A process that is started
through :mod:`preloaded` instead is a fork of this one, which has imported them and done nothing else: the modules are those that
it would import itself, before it does what its arguments say.

The place of its socket is the first argument; it ends with the end of its standard input.
"""

import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import traceback

# Read while modules are imported: a process with others must import them itself.
READ_AT_IMPORT = ("OMP_", "MKL_", "KMP_", "DP_", "DEEPMD", "TORCH", "PYTHON", "CUDA", "LD_", "CXX", "ATEN_")
READ_WHEN_USED = "DEEPMD_GNN_"
# What programs of the tests begin with.
IMPORTS = (
    "ase.io",
    "deepmd.calculator",
    "deepmd.infer",
    "deepmd.main",
    "deepmd.pt.entrypoints.main",
    "deepmd.pt.model.model",
    "mace.modules",
    "deepmd_gnn.cli",
    "deepmd_gnn.mace",
)
OWN_START = -1000
"""Answer to a process that must start by itself."""


def settings(environment, changed):
    """Variables that imports depend on, but for those that imports of the parent have set, and one thread: all processes have one."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_IMPORT)
        and not name.startswith(READ_WHEN_USED)
        and changed.get(name) != value
        and not (name.endswith("_THREADS") and value == "1")
    }


def run(name, arguments):
    """Do what ``python``, ``dp`` or ``deepmd-gnn`` does with these arguments; TorchScript is evaluated as it is written, see conftest.py."""
    import torch

    torch._C._set_graph_executor_optimize(False)
    sys.argv = [name, *arguments]
    if name == "dp":
        from deepmd.main import main

        sys.exit(main())
    if name == "deepmd-gnn":
        from deepmd_gnn.cli import main

        sys.exit(main())
    kind, *rest = arguments
    if kind == "-c":
        code, *rest = rest
        sys.argv, sys.path[0] = ["-c", *rest], ""
        main_module = type(sys)("__main__")
        sys.modules["__main__"] = main_module
        exec(compile(code, "<string>", "exec"), vars(main_module))
    elif kind == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(kind))
        runpy.run_path(kind, run_name="__main__")


def whole(connection, size):
    """So many bytes."""
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise EOFError
        found += part
    return found


def serve(connection, given, changed):
    """Fork for one request and tell how it ended; in the fork, the request.

    Parameters
    ----------
    connection : socket.socket
        To the client.
    given, changed : dict
        Variables with which this program started, and what the imports made of them.
    """
    head, files, *_ = socket.recv_fds(connection, 4, 3)
    request = json.loads(whole(connection, struct.unpack("!i", head)[0]))
    if settings(request["environment"], changed) != settings(given, changed):
        connection.sendall(struct.pack("!i", OWN_START))
        return None
    child = os.fork()
    if not child:
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        # As in a process that the client's parent had started, whatever the server's did.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in request["ignored"]:
            signal.signal(number, signal.SIG_IGN)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update({**request["environment"], **changed})
        sys.executable = request["executable"]
        return request
    process = os.pidfd_open(child)
    connection.sendall(struct.pack("!i", child))
    # A client that is ended takes its process with it.
    if process not in select.select([process, connection], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(struct.pack("!i", status))
    return None


def main(place):
    """Answer requests until standard input ends."""
    given = dict(os.environ)
    for name in IMPORTS:
        importlib.import_module(name)
    changed = {name: value for name, value in os.environ.items() if given.get(name) != value}
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(16)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets those that have ended
    while True:
        ready = select.select([listener, 0], [], [])[0]
        if 0 in ready:
            return None
        connection = listener.accept()[0]
        if os.fork():
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            request = serve(connection, given, changed)
        except (EOFError, OSError):
            traceback.print_exc()
            os._exit(1)
        if request is None:
            os._exit(0)
        connection.close()
        return run(request["name"], request["arguments"])


if __name__ == "__main__":
    main(sys.argv[1])
