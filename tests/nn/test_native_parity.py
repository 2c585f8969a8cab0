"""Our energy function against native ScaleShiftMACE with the same weights, option by option."""

import pytest
from helpers import assert_close, native_results, our_results, random_frame, tiny_model
from tolerances import NATIVE

OPTIONS = {
    "default": {},
    "one layer": {"num_interactions": 1},
    "three layers": {"num_interactions": 3},
    "scalars only": {"max_L": 0},
    "max_L 2": {"max_L": 2, "max_ell": 3},
    "max_ell 1": {"max_ell": 1, "max_L": 1},
    "pseudoscalars": {"num_channels": None, "max_L": None, "hidden_irreps": "4x0e + 4x0o + 4x1o + 4x1e"},
    "correlation 1": {"correlation": 1},
    "correlation 3": {"correlation": 3},
    "correlation per layer": {"correlation": [3, 1]},
    "residual first": {"interaction_first": "RealAgnosticResidual"},
    "plain blocks": {"interaction": "RealAgnostic"},
    "density": {"interaction": "RealAgnosticDensity"},
    "density residual": {"interaction": "RealAgnosticDensityResidual"},
    "density residual first": {
        "interaction": "RealAgnosticDensityResidual",
        "interaction_first": "RealAgnosticDensityResidual",
    },
    "attentive": {"interaction": "RealAgnosticAttResidual"},
    "attentive first": {
        "interaction": "RealAgnosticAttResidual",
        "interaction_first": "RealAgnosticAttResidual",
        "apply_cutoff": False,
    },
    "non-linear": {"interaction": "RealAgnosticResidualNonLinear"},
    "non-linear first": {
        "interaction": "RealAgnosticResidualNonLinear",
        "interaction_first": "RealAgnosticResidualNonLinear",
        "apply_cutoff": False,
        "max_L": 2,
    },
    "as MH-1": {
        "interaction": "RealAgnosticResidualNonLinear",
        "interaction_first": "RealAgnosticResidualNonLinear",
        "apply_cutoff": False,
        "edge_irreps": "2x0e + 2x1o",
        "use_edge_irreps_first": True,
        "use_agnostic_product": True,
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
    },
    "edge irreps": {"edge_irreps": "3x0e + 3x1o"},
    "edge irreps first": {"edge_irreps": "3x0e + 3x1o + 3x2e", "use_edge_irreps_first": True},
    "agnostic product": {"use_agnostic_product": True},
    "last readout only": {"use_last_readout_only": True, "num_interactions": 3},
    "so3": {"use_so3": True, "num_channels": None, "max_L": None, "hidden_irreps": "4x0e + 4x1e"},
    "all irreps last": {"keep_last_layer_irreps": True},
    "readout with bias": {"readout_cls": "NonLinearBiasReadoutBlock"},
    "gaussian": {"radial_type": "gaussian", "num_radial_basis": 16},
    "agnesi": {"distance_transform": "Agnesi"},
    "soft": {"distance_transform": "Soft"},
    "zbl": {"pair_repulsion": True},
    "zbl agnesi density": {
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "interaction": "RealAgnosticDensityResidual",
    },
    "cutoff after mlp": {"apply_cutoff": False},
    "cutoff after mlp, density": {"apply_cutoff": False, "interaction": "RealAgnosticDensityResidual"},
    "cutoff power": {"num_cutoff_basis": 3},
    "gate tanh": {"gate": "tanh"},
    "gate abs": {"gate": "abs"},
    "no gate": {"gate": "None"},
    "deep radial": {"radial_MLP": [16, 8, 8]},
    "readout width": {"MLP_irreps": "7x0e"},
    "three elements": {"type_map": ["O", "H", "Cu"], "atomic_energies": [-3.0, -1.0, -7.5]},
}


# One option after the other: the native model is built once for each.
@pytest.mark.parametrize("periodic", [True, False], ids=["pbc", "free"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("option", OPTIONS)
def test_equals_native(option, precision, periodic):
    model = tiny_model(**OPTIONS[option], precision=precision)
    coord, atype, cell = random_frame(ntypes=len(model.get_type_map()), box_length=5.5)
    cell = cell if periodic else None
    expected = native_results(model, coord, atype, cell)
    actual = our_results(model, coord, atype, cell)
    bias = model.out_bias[0, atype, 0].numpy()
    tolerance = NATIVE[precision]
    assert_close(actual["energy"] - bias.sum(), expected["energy"], tolerance, "energy")
    assert_close(actual["atom_energy"][:, 0] - bias, expected["atom_energy"], tolerance, "atomic energy")
    assert_close(actual["force"], expected["force"], tolerance, "force")
    if periodic:
        assert_close(actual["virial"], expected["virial"], tolerance, "virial")
