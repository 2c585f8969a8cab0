"""Write the files of this version: ``PYTHONPATH=tests python tests/data/versions/make.py``, once per release."""

import gzip
from pathlib import Path

import numpy as np
import torch
from helpers import our_results, random_frame, tiny_model
from lammps_cases import freeze

from deepmd_gnn import __version__
from deepmd_gnn.native.conversion import save_checkpoint

OPTIONS = {"scale": 60.0, "avg_num_neighbors": 4.0, "num_channels": 2, "pair_repulsion": True, "seed": 11}


def main() -> None:
    """Checkpoint, frozen files and reference numbers of a tiny model."""
    folder = Path(__file__).parent / __version__
    folder.mkdir()
    torch.manual_seed(0)
    model = tiny_model(**OPTIONS)
    save_checkpoint(model, folder / "model.pt")
    for suffix in (".pth", ".pte"):
        freeze(model, folder / f"model{suffix}")
    exported = folder / "model.pte"
    (folder / "model.pte.gz").write_bytes(gzip.compress(exported.read_bytes(), mtime=0))
    exported.unlink()
    coord, types, cell = random_frame(10, 6.0, seed=11)
    out = our_results(model, coord, types, cell, do_atomic_virial=True)
    np.savez(folder / "reference.npz", coord=coord, types=types, cell=cell, **out)


if __name__ == "__main__":
    main()
