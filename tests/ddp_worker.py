"""One rank of distributed trainings on the CPU, one after the other: ``ddp_worker.py RANK WORLD_SIZE FOLDER...``.

Each folder has an ``input.json`` below the number of the rank. The host's own launcher asks for NCCL, which needs GPUs; it uses a process group that is already there.
"""

import os
import sys

import torch.distributed as dist


def main():
    rank, world, *folders = sys.argv[1:]  # noqa: TID251
    for folder in folders:
        store = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=int(rank), world_size=int(world))
        from deepmd.main import main as dp

        os.chdir(f"{folder}/{rank}")
        dp(["--pt-expt", "train", "input.json", "--skip-neighbor-stat"])
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
