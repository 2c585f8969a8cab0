"""Ask the server of server.py for a process, or start it here; no imports but the standard library's.

The answer is the number of the process, and when it has ended its exit code; or :data:`OWN_START` alone.
"""

import json
import os
import signal
import socket
import struct
import sys

OWN_START = -1000
PASSED_ON = (signal.SIGINT, signal.SIGTERM)
# It must not have imported more than torch.
ALONE = ["-m", "deepmd_gnn.files.opening"]


def other_files():
    """Whether files are handed over beside the standard ones, which a server would not have."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                return True
        except OSError:  # the folder itself, closed meanwhile
            continue
    return False


def pass_on(process):
    """What is sent to this one is sent to the process; the end of this one, by whatever signal, is its end."""
    for number in PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: os.kill(process, number))


def ask(place, executable, name, arguments):
    """Exit code of the process."""
    request = {
        "ignored": [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN],
        "name": name,
        "arguments": arguments,
        "executable": executable,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
    }
    text = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        socket.send_fds(connection, [struct.pack("!i", len(text))], [0, 1, 2])
        connection.sendall(text)
        answer = connection.recv(4)
        process = struct.unpack("!i", answer)[0] if len(answer) == 4 else 0
        if process > 0:
            pass_on(process)
            answer = connection.recv(4)
    return struct.unpack("!i", answer)[0] if len(answer) == 4 else 1


def main(place, real, executable, name, *arguments):
    """End as the process that was asked for does."""
    known = name != "python" or (arguments and (arguments[0] in ("-c", "-m") or arguments[0][0] != "-"))
    known = known and list(arguments[:2]) != ALONE and not other_files()
    status = ask(place, executable, name, arguments) if known else OWN_START
    if status == OWN_START:
        program = [] if name == "python" else [os.path.join(os.path.dirname(real), name)]
        os.execv(real, [real, *program, *arguments])
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
