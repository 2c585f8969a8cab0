"""One rank of distributed trainings on the CPU, one after the other: ``ddp_worker.py RANK WORLD_SIZE STORE FOLDER...``.

Each folder has an ``input.json`` below the number of the rank. The host's own launcher asks for NCCL, which needs GPUs; it uses a process group that is already there.
"""

import os
import sys
import time
import traceback

import torch.distributed as dist


def main():
    rank, world, path, *folders = sys.argv[1:]  # noqa: TID251
    store = dist.FileStore(path, int(world) + 1)
    dist.init_process_group("gloo", store=store, rank=int(rank), world_size=int(world))
    # The host ends the group after each training, at other moments on each rank; a rank whose connections are closed by another may abort.
    dist.destroy_process_group = lambda *group: None
    from deepmd.main import main as dp

    try:
        for folder in folders:
            os.chdir(f"{folder}/{rank}")
            dp(["--pt-expt", "train", "input.json", "--skip-neighbor-stat"])
    finally:
        store.add("ended", 1)
        while store.add("ended", 0) < int(world):
            time.sleep(0.05)


if __name__ == "__main__":
    # Without the interpreter's end, which closes connections that the other rank may still use.
    code = 0
    try:
        main()
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
