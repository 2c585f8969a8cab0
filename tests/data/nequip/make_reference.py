"""Writes reference.npz: weights, energies and forces of the package nequip 0.6 for some architectures.

    pip install "nequip>=0.6.1,<0.7"
    python tests/data/nequip/make_reference.py

The models have random weights. What is compared with it: tests/nn/test_nequip.py.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

torch.serialization.add_safe_globals([slice])
HERE = Path(__file__).parent
# Every model has the type map O, H, and of the options of a NequIP model these; "irreps" in place of the simple keys.
COMMON = {
    "r_max": 4.0,
    "num_basis": 4,
    "invariant_layers": 2,
    "invariant_neurons": 8,
    "PolynomialCutoff_p": 6,
    "avg_num_neighbors": 8.0,
    "num_layers": 2,
}
SIMPLE = {"l_max": 1, "parity": True, "num_features": 4}
CASES = {
    "default": SIMPLE,
    "one layer": {**SIMPLE, "num_layers": 1},
    "l_max 0": {**SIMPLE, "l_max": 0},
    "l_max 2": {**SIMPLE, "l_max": 2, "num_layers": 3},
    "no parity": {**SIMPLE, "l_max": 2, "parity": False},
    "no self-connection": {**SIMPLE, "use_sc": False, "num_layers": 3},
    "four layers": {**SIMPLE, "num_layers": 4, "l_max": 2, "num_features": 2},
    "norm": {**SIMPLE, "nonlinearity_type": "norm", "num_layers": 3},
    "norm, l_max 2, no parity": {**SIMPLE, "l_max": 2, "parity": False, "nonlinearity_type": "norm"},
    "fixed basis, power, deep": {
        **SIMPLE,
        "BesselBasis_trainable": False,
        "PolynomialCutoff_p": 4,
        "invariant_layers": 3,
        "num_basis": 6,
    },
    "explicit irreps": {
        "irreps_edge_sh": "0e + 1o + 2e",
        "feature_irreps_hidden": "4x0o + 4x0e + 4x1o + 4x1e",
        "chemical_embedding_irreps_out": "3x0e",
        "conv_to_output_hidden_irreps_out": "5x0e",
        "num_layers": 3,
    },
    "explicit even irreps": {
        "irreps_edge_sh": "0e + 1e",
        "feature_irreps_hidden": "3x0e + 3x2e + 3x1e",
        "chemical_embedding_irreps_out": "6x0e",
        "conv_to_output_hidden_irreps_out": "2x0e",
        "num_layers": 3,
    },
}
SHIFTS, SCALE = [-5.0, -1.25], 1.3


def package_model(case):
    """A model of the package with random weights."""
    from nequip.model import model_from_config
    from nequip.utils import Config

    torch.set_default_dtype(torch.float64)  # noqa: TID251 - the package builds in the default dtype
    options = {
        **COMMON,
        "nonlinearity_type": "gate",
        "BesselBasis_trainable": True,
        "use_sc": True,
        **CASES[case],
        "num_types": 2,
        "type_names": ["O", "H"],
        "chemical_symbols": ["O", "H"],
        "default_dtype": "float64",
        "model_dtype": "float64",
        "model_debug_mode": False,
        "per_species_rescale_shifts": SHIFTS,
        "per_species_rescale_scales": None,
        "global_rescale_scale": SCALE,
        "model_builders": [
            *(["SimpleIrrepsConfig"] if "l_max" in CASES[case] else []),
            "EnergyModel",
            "PerSpeciesRescale",
            "StressForceOutput",
            "RescaleEnergyEtc",
        ],
    }
    torch.manual_seed(list(CASES).index(case))
    return model_from_config(Config.from_dict(options), initialize=True).eval()


def package_results(model, coord, atype, cell):
    """Energy of each atom, forces and virial of a frame by the package."""
    from nequip.data import AtomicData, AtomicDataDict

    data = AtomicData.from_points(
        pos=torch.tensor(coord), r_max=COMMON["r_max"], cell=torch.tensor(cell), pbc=True
    )
    data[AtomicDataDict.ATOM_TYPE_KEY] = torch.tensor(atype).reshape(-1, 1)
    out = model(AtomicData.to_AtomicDataDict(data))
    return {
        "energy": out["total_energy"].detach().numpy().reshape(1),
        "atom_energy": out["atomic_energy"].detach().numpy().reshape(-1, 1),
        "force": out["forces"].detach().numpy(),
        "virial": out["virial"].detach().numpy().reshape(9),
    }


def main():
    sys.path.insert(0, str(HERE.parents[1]))
    from helpers import random_frame

    frame = dict(zip(("coord", "atype", "cell"), random_frame(natoms=12, seed=5), strict=True))
    arrays = {f"frame/{key}": value for key, value in frame.items()}
    for case, options in CASES.items():
        model = package_model(case)
        state = {k: v.numpy() for k, v in model.state_dict().items() if v.numel() and "_mask" not in k}
        kept = {k: v for k, v in state.items() if "w3j" not in k}
        arrays |= {f"{case}/weights/{key}": value for key, value in kept.items()}
        arrays |= {f"{case}/{k}": v for k, v in package_results(model, **frame).items()}
        arrays[f"{case}/options"] = np.array(json.dumps({**COMMON, **options}))
        print(case, sum(v.size for v in kept.values()), "weights", arrays[f"{case}/energy"])
    np.savez_compressed(HERE / "reference.npz", **arrays)


if __name__ == "__main__":
    main()
