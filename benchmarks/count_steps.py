"""Run a training program and count the CPU time of its steps: ``count_steps.py RESULT.json PROGRAM -- ARGUMENTS...``.

The time of a step is the CPU time of the process between two steps of the optimizer; the median leaves out what
happens rarely (validation, checkpoints).
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook


def train_native(arguments):
    """``mace_run_train ARGUMENTS``."""
    from mace.cli.run_train import run
    from mace.tools import build_default_arg_parser

    run(build_default_arg_parser().parse_args(arguments))


def train_ours(arguments):
    """``dp ARGUMENTS``."""
    from deepmd.main import main

    main(arguments)


PROGRAMS = {"mace_run_train": train_native, "dp": train_ours}


def main():
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("program", choices=list(PROGRAMS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    moments = []
    register_optimizer_step_post_hook(lambda *_: moments.append(time.process_time()))
    PROGRAMS[args.program]([a for a in args.arguments if a != "--"])
    steps = [after - before for before, after in itertools.pairwise(moments)]
    total = time.process_time()
    args.result.write_text(
        json.dumps({"steps": len(moments), "seconds_per_step": statistics.median(steps), "seconds": total})
    )


if __name__ == "__main__":
    main()
