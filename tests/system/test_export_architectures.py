"""Every architecture option can be frozen by the exportable backend, and compiled for more than one thread."""

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor_config
from deepmd.infer import DeepPot
from helpers import assert_close, random_frame, tiny_model
from lammps_cases import STRONG, freeze
from tolerances import NATIVE

pytestmark = pytest.mark.slow

# Options side by side that do not exclude each other: each file shows several.
ARCHITECTURES = {
    "non-linear": {
        "interaction": "RealAgnosticResidualNonLinearInteractionBlock",
        "interaction_first": "RealAgnosticResidualNonLinearInteractionBlock",
        "use_agnostic_product": True,
        "apply_cutoff": False,
        "num_interactions": 3,
        "correlation": 2,
    },
    "density": {
        "interaction": "RealAgnosticDensityResidualInteractionBlock",
        "interaction_first": "RealAgnosticDensityInteractionBlock",
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "correlation": [3, 1],
        "gate": "tanh",
        # Edges between unlike atoms only: the first type is excluded by hand, the second as an MM type.
        "type_map": ["O", "HW"],
        "atomic_energies": {"O": -5.0},
        "pair_exclude_types": [[0, 0]],
        "precision": "float32",
    },
    "attentive": {
        "interaction": "RealAgnosticAttResidualInteractionBlock",
        "interaction_first": "RealAgnosticResidualInteractionBlock",
        "distance_transform": "Soft",
        "radial_type": "gaussian",
        "num_radial_basis": 16,
        "use_last_readout_only": True,
        "atom_exclude_types": [1],
    },
    "SO(3)": {
        "interaction": "RealAgnosticInteractionBlock",
        "use_so3": True,
        "keep_last_layer_irreps": True,
        "readout_cls": "NonLinearBiasReadoutBlock",
        "edge_irreps": "2x0e + 2x1o",
        "use_edge_irreps_first": True,
        "correlation": 1,
        "gate": "abs",
    },
}
KEYS = ("energy", "force", "virial", "atom_energy", "atom_virial")


def check(path, model, precision):
    for natoms in (2, 17):
        coord, atype, cell = random_frame(natoms=natoms, box_length=6.5, seed=natoms)
        found = DeepPot(str(path)).eval(coord[None], cell[None], atype, atomic=True)
        expected = model(
            torch.tensor(coord[None]),
            torch.tensor(atype[None]),
            torch.tensor(cell[None]),
            do_atomic_virial=True,
        )
        for key, value in zip(KEYS, found, strict=True):
            assert_close(np.ravel(value), expected[key].numpy().ravel(), NATIVE[precision], key)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_compiled_for_two_threads(name, tmp_path):
    """Atomic additions would end the compilation: both programs are there, and the numbers are right."""
    from deepmd_gnn.cli import main

    model = tiny_model(**STRONG, **ARCHITECTURES[name])
    folder = tmp_path / "the mödel"  # spaces and other letters are no obstacle for the compiler
    folder.mkdir()
    path = folder / "model.pt2"  # the name with which torch could not open it in Python
    with inductor_config.patch({"cpp.threads": 2}):
        freeze(model, path)
    check(path, model, ARCHITECTURES[name].get("precision", "float64"))
    assert main(["info", str(path)]) == 0
