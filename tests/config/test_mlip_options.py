"""Options of mlip's MACE that are fields of ours: spellings, and what they do not go with."""

import pytest

from deepmd_gnn.config.mlip import MlipOptions
from deepmd_gnn.config.options import config_from_options


def config(**options):
    return config_from_options({"type": "mace", **options})


def test_spellings():
    assert isinstance(config(), MlipOptions)
    assert config(radial_envelope="soft") == config(radial_envelope="soft_envelope")
    assert config(radial_envelope="polynomial") == config(radial_mlp_activation="swish") == config()
    assert config().beside() == []
    found = config(gate_nodes=True, soft_normalization=1.0, use_coulomb_term=True).beside()
    assert found == ["gate_nodes", "soft_normalization", "use_coulomb_term"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radial_envelope": "cosine"}, "one of polynomial_envelope, soft_envelope"),
        ({"radial_mlp_activation": "gelu"}, "one of silu, swish, elu"),
        ({"radial_mlp_activation": "sigmoid"}, "one of silu, swish, elu, relu, tanh, none"),
        (
            {"radial_mlp_activation": "tanh", "interaction": "RealAgnosticResidualNonLinear"},
            "silu with ResidualNonLinear",
        ),
        ({"avg_r_min": 5.0}, "below r_max"),
        ({"avg_r_min": 1.0, "distance_transform": "Agnesi"}, "left out with distance_transform"),
        ({"soft_normalization": 0.0}, "a number above 0"),
        ({"enable_cueq": True, "gate_nodes": True}, "false with gate_nodes"),
    ],
)
def test_refused(options, words):
    with pytest.raises(ValueError, match="mace model: .*" + words):
        config(**options)
