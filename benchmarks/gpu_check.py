"""``make gpu-check``: numbers and speed on one GPU, in at most eight minutes; every part survives the failure of another.

``python gpu_check.py [FOLDER] [--only PART ...]`` runs the parts of ``gpu_parts.py``, each in a process of its own, and writes
``gpu_check.json`` and ``gpu_check.md`` to FOLDER. ``python gpu_check.py --reference`` makes the reference on a CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# Seconds that a part may take. The first ones matter most.
PARTS = {
    "environment": 30,
    "frozen": 240,
    "numbers": 120,
    "gradients": 120,
    "speed": 120,
    "training": 100,
    "lammps": 100,
    "memory": 60,
    "native": 120,
}
# A freeze hardly needs the GPU: it goes on while these run, which measure no times.
WHILE_FREEZING = ("numbers", "gradients")
TOTAL = 470.0


def main():
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="gpu_check", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--skip", nargs="+", choices=PARTS, default=[])
    parser.add_argument("--seconds", type=float, default=TOTAL, help="time for all parts")
    parser.add_argument("--models", nargs="+", help="sizes and precisions, as in M:float32")
    parser.add_argument("--reference", action="store_true", help="make the reference and stop")
    arguments = parser.parse_args()
    if arguments.reference:
        subprocess.run([sys.executable, HERE / "gpu_parts.py", "reference", HERE], check=True)
        return
    if arguments.models:
        os.environ["GPU_CHECK_MODELS"] = " ".join(arguments.models)
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS if part in arguments.only and part not in arguments.skip]
    begin = time.monotonic()
    rows = _run(parts, folder, begin + arguments.seconds)
    print((folder / "gpu_check.md").read_text(encoding="utf-8"))
    print(f"{time.monotonic() - begin:.0f} s")
    if any(row["what"] in ("failed", "wrong") for row in rows):
        sys.exit(1)


def _run(parts, folder, end):
    """Run parts one after the other until the time is over; all results so far are written after each."""
    rows, freezing = [], None
    for part in parts:
        if freezing is not None and part not in WHILE_FREEZING:
            rows += _finish("frozen", folder, freezing)
            freezing = None
        left = end - time.monotonic()
        if left < 5:
            rows.append({"part": part, "what": "not run", "value": "no time left", "unit": ""})
            continue
        process = _start(part, folder, min(PARTS[part], left))
        if part == "frozen":
            freezing = process
            continue
        rows += _finish(part, folder, process)
        _write(folder, rows)
    if freezing is not None:
        rows += _finish("frozen", folder, freezing)
    _write(folder, rows)
    return rows


def _start(part, folder, seconds):
    log = (folder / f"{part}.log").open("w", encoding="utf-8")
    command = ["timeout", f"{seconds:.0f}", sys.executable, str(HERE / "gpu_parts.py"), part, str(folder)]
    return subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )


def _finish(part, folder, process):
    status = process.wait()
    results = folder / f"{part}.jsonl"
    rows = []
    if results.exists():  # also what a part found before it failed
        rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    if status:
        last = (folder / f"{part}.log").read_text(encoding="utf-8").strip().splitlines()[-1:]
        reason = "took too long" if status == 124 else (last[0][:200] if last else f"status {status}")
        rows.append({"part": part, "what": "failed", "value": reason, "unit": ""})
    return rows


def _write(folder, rows):
    (folder / "gpu_check.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    lines = ["| part | what | value | |", "|---|---|---:|---|"]
    for row in rows:
        value = f"{row['value']:.4g}" if isinstance(row["value"], float) else row["value"]
        lines.append(f"| {row['part']} | {row['what']} | {value} | {row['unit']} |")
    (folder / "gpu_check.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
