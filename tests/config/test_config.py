"""The options: defaults, spellings, and messages that name the key, the value and what is allowed."""

import json
import subprocess
import sys

import pytest
from deepmd.utils.argcheck import normalize
from helpers import tiny_model

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.options import exclusion_tables

MINIMAL = {
    "learning_rate": {"type": "exp", "start_lr": 0.001, "stop_lr": 1e-5, "decay_steps": 10},
    "loss": {"type": "ener"},
    "training": {"training_data": {"systems": ["x"]}, "numb_steps": 1},
}


def schema(**model):
    return normalize({"model": {"type": "mace", "type_map": ["O", "H"], **model}, **MINIMAL})["model"]


def test_defaults_are_native_defaults():
    config = MaceConfig()
    assert (config.r_max, config.num_radial_basis, config.num_cutoff_basis, config.max_ell) == (5.0, 8, 5, 3)
    assert config.hidden_irreps == "128x0e + 128x1o"
    assert config.correlations == [3, 3]
    assert config.interaction_first == "RealAgnosticInteractionBlock"
    assert config.scale == config.avg_num_neighbors == config.atomic_energies == "auto"


def test_channels_and_irreps_are_two_spellings():
    assert MaceConfig(num_channels=8, max_L=2).hidden_irreps == "8x0e + 8x1o + 8x2e"
    assert MaceConfig(hidden_irreps="8x0e + 8x1o", num_channels=8, max_L=1).hidden_irreps == "8x0e + 8x1o"
    with pytest.raises(ValueError, match="num_channels.*16.*hidden_irreps"):
        MaceConfig(hidden_irreps="8x0e", num_channels=16)


def test_aliases():
    model = schema(rcut=4.5, l_max=2, num_rbf=6, num_layers=3, std=2.0)
    assert (model["r_max"], model["max_ell"], model["num_radial_basis"], model["num_interactions"]) == (
        4.5,
        2,
        6,
        3,
    )
    assert model["scale"] == 2.0
    assert tiny_model(r_max=4.0).get_rcut() == 4.0
    with pytest.raises(ValueError, match="another spelling of 'r_max'"):
        tiny_model(rcut=5.0)


def test_input_of_the_existing_plugin():
    """Its documented keys, as they stand in its examples."""
    model = schema(
        sel="auto", r_max=6.0, num_radial_basis=8, num_cutoff_basis=5, max_ell=3,
        interaction="RealAgnosticResidualInteractionBlock", num_interactions=2, hidden_irreps="16x0e + 16x1o",
        pair_repulsion=False, distance_transform="None", correlation=3, gate="silu", MLP_irreps="16x0e",
        radial_type="bessel", radial_MLP=[64, 64, 64], std=1, precision="float32",
    )  # fmt: skip
    config = MaceConfig(**{k: v for k, v in model.items() if k in MaceConfig.__dataclass_fields__})
    assert config.scale == 1
    assert config.precision == "float32"


BAD = {
    "r_max": [0, -1.0, "5", float("nan"), float("inf")],
    "sel": [0, "automatic", 2.5],
    "num_radial_basis": [0, 2.5, True],
    "num_cutoff_basis": [0],
    "max_ell": [-1, 0, 12],
    "num_interactions": [0, -1],
    "correlation": [0, [3, 0], [], "3"],
    "hidden_irreps": ["64x1o", "16x0e + 8x1o", "16x1o + 16x0e", "abc", "16x0e + 16x0e", "0x0e", ""],
    "num_channels": [0],
    "max_L": [-1],
    "interaction": ["Unknown", "AgnosticNonlinearInteractionBlock"],
    "interaction_first": ["Unknown"],
    "MLP_irreps": ["16x1o", "16x0e + 4x1o", "x"],
    "gate": ["gelu"],
    "radial_MLP": [[], [0], "64", [64.5]],
    "radial_type": ["chebyshev", "fourier"],
    "distance_transform": ["agnesi"],
    "pair_repulsion": ["yes"],
    "apply_cutoff": [1],
    "edge_irreps": ["16x1o", "16x0e + 8x1o", "x"],
    "use_edge_irreps_first": [1, True],
    "use_agnostic_product": ["yes"],
    "use_last_readout_only": [1],
    "use_so3": [1],
    "keep_last_layer_irreps": [1],
    "readout_cls": ["LinearReadoutBlock"],
    "avg_num_neighbors": [0, -3.0, "mean"],
    "scale": [0, "rms"],
    "atomic_energies": [{"H": "x"}, 3.0],
    "precision": ["float16", "bfloat16"],
    "seed": [-1, "a"],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_bad_values_are_named(key, value):
    with pytest.raises(ValueError, match=f"'{key}' is .* must be") as caught:
        MaceConfig(**{key: value})
    assert repr(value) in str(caught.value)


def test_chebyshev_message_lists_what_is_allowed():
    with pytest.raises(Exception, match="radial_type.*chebyshev.*bessel, gaussian"):
        schema(radial_type="chebyshev")


def test_correlation_list_must_fit_the_layers():
    with pytest.raises(ValueError, match="correlation.*num_interactions"):
        MaceConfig(correlation=[3, 2, 1])


@pytest.mark.parametrize(
    ("type_map", "words"),
    [
        (["O", "Xx"], "not known: Xx"),
        (["O", "O"], "each element once"),
        ([], "non-empty"),
        (["O", "mXx"], "not known: mXx"),
    ],
)
def test_unknown_elements(type_map, words):
    with pytest.raises(ValueError, match=words):
        tiny_model(type_map=type_map, atomic_energies="auto")


def test_unknown_key_and_wrong_energies():
    with pytest.raises(ValueError, match="unknown key 'r_cut'.*r_max"):
        tiny_model(r_cut=3.0)
    with pytest.raises(ValueError, match="atomic_energies names.*Cu"):
        tiny_model(atomic_energies={"Cu": 1.0})
    with pytest.raises(ValueError, match="atomic_energies has 1 values"):
        tiny_model(atomic_energies=[1.0])
    with pytest.raises(ValueError, match="excluded type 5 is out of range"):
        tiny_model(atom_exclude_types=[5])


def test_round_trip():
    config = MaceConfig(
        num_channels=8, correlation=[3, 2], interaction="RealAgnosticDensityResidual", seed=[1, 2]
    )
    assert MaceConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_schema_needs_no_torch():
    """`dp doc-train-input` and the DP-GUI schema know the type, and torch is not imported for it."""
    code = (
        "import sys, json; from deepmd.backend.backend import Backend; "
        "from deepmd.utils.argcheck import gen_doc, gen_json; "
        "assert 'radial_MLP' in gen_doc() and 'radial_MLP' in gen_json(); "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_import_changes_nothing():
    code = (
        "import os, torch; env = dict(os.environ); dtype = torch.get_default_dtype(); "
        "import deepmd_gnn.files.import_order as c; c.allow_e3nn_constants(); "
        "import e3nn; fx = e3nn.get_optimization_defaults(); import deepmd_gnn.mace_network as n; "
        "from deepmd_gnn.config.mace import MaceConfig; state = torch.random.get_rng_state(); "
        "n.build_native(MaceConfig(num_channels=2, seed=3), [1]); "
        "assert dict(os.environ) == env and torch.get_default_dtype() == dtype; "
        "assert e3nn.get_optimization_defaults() == fx; "
        "assert torch.equal(state, torch.random.get_rng_state())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_long_exclusion_lists_are_looked_through_once():
    """A stranger's file may repeat a type a million times."""

    class Once(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

        def __contains__(self, _):
            raise AssertionError("looked through for every type")

    pairs, atoms = Once([[0, 1]] * 1000), Once([1] * 1000)
    assert exclusion_tables(3, pairs, atoms) == (
        [[True, False, True], [False, True, True], [True, True, True]],
        [True, False, True],
    )
    assert (pairs.passes, atoms.passes) == (1, 1)
