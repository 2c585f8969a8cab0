"""Writes files/: two models as the package nequip 0.6 trains and deploys them, and what the package computes with them.

    pip install "nequip>=0.6.1,<0.7"
    python tests/data/nequip/make_files.py

Two epochs on six frames with random labels each. Archives are packed again, compressed, the deployed one without the text of its
program, which nothing here reads. What is compared with it: tests/native/test_package_nequip.py.
"""

import importlib
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

HERE = Path(__file__).parent
R_MAX = 4.0
COMMON = {
    "root": "results", "seed": 1, "dataset_seed": 2, "append": False, "default_dtype": "float64", "model_dtype": "float64",
    "allow_tf32": False, "r_max": R_MAX, "num_layers": 2, "num_basis": 4, "invariant_neurons": 8, "dataset": "ase",
    "dataset_file_name": "data.xyz", "ase_args": {"format": "extxyz"}, "chemical_symbols": ["O", "H"], "verbose": "info", "wandb": False,
    "n_train": 4, "n_val": 2, "batch_size": 2, "dataloader_num_workers": 0, "max_epochs": 2, "learning_rate": 0.005,
    "loss_coeffs": {"forces": 1, "total_energy": 1}, "optimizer_name": "Adam",
}  # fmt: skip
CASES = {
    # What the defaults are: statistics of the data, one scale for all.
    "trained": {
        "l_max": 1,
        "parity": True,
        "num_features": 4,
        "invariant_layers": 2,
        "avg_num_neighbors": "auto",
        "model_builders": [
            "SimpleIrrepsConfig",
            "EnergyModel",
            "PerSpeciesRescale",
            "ForceOutput",
            "RescaleEnergyEtc",
        ],
    },
    "deployed": {
        "irreps_edge_sh": "0e + 1e + 2e",
        "feature_irreps_hidden": "3x0e + 3x2e + 3x1e",
        "chemical_embedding_irreps_out": "5x0e",
        "conv_to_output_hidden_irreps_out": "2x0e",
        "nonlinearity_type": "norm",
        "use_sc": False,
        "BesselBasis_trainable": False,
        "PolynomialCutoff_p": 4,
        "avg_num_neighbors": None,
        "per_species_rescale_scales": [0.7, 0.7],
        "per_species_rescale_shifts": [-1.5, -3.25],
        "use_ema": True,
        "model_builders": ["EnergyModel", "PerSpeciesRescale", "StressForceOutput", "RescaleEnergyEtc"],
    },
}


def run(script, *arguments):
    """A command of the package, in this process: its files are from before torch read weights only, and NumPy 2.4."""
    torch.serialization.add_safe_globals([slice])
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    if not hasattr(np, "in1d"):
        vars(np)["in1d"] = np.isin
    importlib.import_module(f"nequip.scripts.{script}").main([str(argument) for argument in arguments])


def write_frames(random_frame):
    """Six frames of one composition."""
    rng = np.random.default_rng(3)
    kinds = random_frame(natoms=9, seed=8)[1]
    frames = []
    for seed in range(6):
        coord, _, cell = random_frame(natoms=9, seed=seed)
        atoms = Atoms([["O", "H"][kind] for kind in kinds], coord, cell=cell, pbc=True)
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(rng.normal()), forces=rng.normal(size=(len(atoms), 3))
        )
        frames.append(atoms)
    ase.io.write("data.xyz", frames)


def repack(source, target):
    """Compressed, without dates and programs."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if "/code/" not in name:
                new.writestr(zipfile.ZipInfo(name), old.read(name), zipfile.ZIP_DEFLATED)


def results(file, coord, atype, cell):
    """Energy and forces by a deployed file; types are those of O, H here, and by atomic number there."""
    from nequip.data import AtomicData, AtomicDataDict

    data = AtomicData.from_points(pos=torch.tensor(coord), r_max=R_MAX, cell=torch.tensor(cell), pbc=True)
    data[AtomicDataDict.ATOM_TYPE_KEY] = 1 - torch.tensor(atype).reshape(-1, 1)
    out = torch.jit.load(file)(AtomicData.to_AtomicDataDict(data))
    return {
        "energy": out["total_energy"].detach().numpy().reshape(1),
        "force": out["forces"].detach().numpy(),
    }


def main():
    sys.path.insert(0, str(HERE.parents[1]))
    from helpers import random_frame

    frame = dict(zip(("coord", "atype", "cell"), random_frame(natoms=12, seed=5), strict=True))
    arrays = {f"frame/{key}": value for key, value in frame.items()}
    target = HERE / "files"
    shutil.rmtree(target, ignore_errors=True)
    (target / "trained").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_frames(random_frame)
        for name, options in CASES.items():
            Path("input.yaml").write_text(yaml.safe_dump({**COMMON, **options, "run_name": name}))
            run("train", "input.yaml")
            run("deploy", "build", "--train-dir", f"results/{name}", f"{name}.pth")
            arrays |= {f"{name}/{key}": value for key, value in results(f"{name}.pth", **frame).items()}
        shutil.copy("results/trained/config.yaml", target / "trained")
        repack("results/trained/best_model.pth", target / "trained" / "best_model.pth")
        repack("deployed.pth", target / "deployed.pth")
    np.savez_compressed(target / "reference.npz", **arrays)


if __name__ == "__main__":
    main()
