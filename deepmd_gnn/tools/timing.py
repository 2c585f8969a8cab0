"""Time one model file in a process of its own: ``python -m deepmd_gnn.tools.timing``.

Reads a request (JSON) from stdin: ``file``, ``head``, ``structure`` (an ``.npz`` with ``coord``, ``types`` and perhaps
``cell``), ``calls``; writes one line of JSON to stdout.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from deepmd_gnn.tools.evaluation import load_evaluation
from deepmd_gnn.tools.structures import Structure

# Evaluations before the timed ones: TorchScript compiles during the first two.
WARM_UP = 3


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    arrays = np.load(request["structure"])
    cell = arrays.get("cell")
    structure = Structure(arrays["coord"], arrays["types"], cell, request["type_map"], "", cell is not None)
    evaluate = load_evaluation(Path(request["file"]), request["head"])
    for _ in range(WARM_UP):
        result = evaluate(structure)
    wall, cpu = [], []
    for _ in range(request["calls"]):
        begin = time.perf_counter(), time.process_time()
        evaluate(structure)
        wall.append(time.perf_counter() - begin[0])
        cpu.append(time.process_time() - begin[1])
    answer = {
        "seconds": float(np.median(wall)),
        "cpu_seconds": float(np.median(cpu)),
        "memory_mb": _largest_memory(),
        "energy": result.energy,
    }
    sys.stdout.write(json.dumps(answer) + "\n")


def _largest_memory() -> float:
    """Largest resident memory of this program in MB; the system's count of the process begins with that of its parent."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
