"""Run a training program and count the CPU time of its steps: ``count_steps.py RESULT.json MODULE ARGUMENTS...``.

`MODULE` has a function ``main`` that reads the command line: ``mace.cli.run_train`` or ``deepmd.main``. The time of a
step is the CPU time of the process between two steps of the optimizer; the median leaves out what happens rarely
(validation, checkpoints).
"""

import importlib
import json
import statistics
import sys
import time
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook


def main():
    """Run the program."""
    result, module, *arguments = sys.argv[1:]
    moments = []
    register_optimizer_step_post_hook(lambda *_: moments.append(time.process_time()))
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()
    steps = [after - before for before, after in zip(moments[:-1], moments[1:], strict=True)]
    total = time.process_time()
    Path(result).write_text(
        json.dumps({"steps": len(moments), "seconds_per_step": statistics.median(steps), "seconds": total})
    )


if __name__ == "__main__":
    main()
