"""Options about charges: which quantities of a frame they need, and what they do not go with."""

import pytest

from deepmd_gnn.config.charges import activation, quantities_in, refuse_export
from deepmd_gnn.config.options import config_from_options
from deepmd_gnn.config.sections import canonical_names

SPIN = {"total_spin": {"type": "continuous", "emb_dim": 2}}
CHARGE = {"total_charge": {"type": "categorical", "num_classes": 5, "offset": 2, "emb_dim": 2}}


def config(**options):
    return config_from_options({"type": "mace", **options})


def test_total_charge_is_a_column():
    assert config().quantities == []
    (charge,) = config(use_coulomb_term=True).quantities
    assert (charge.name, charge.type, charge.default, charge.key) == (
        "total_charge",
        "continuous",
        0.0,
        "charge",
    )
    (charge,) = config(use_coulomb_term=True, use_total_charge_embedding=True).quantities
    assert charge.allowed == "a whole number from -50 to 50"
    names = [one.name for one in config(use_coulomb_term=True, embeddings=SPIN).quantities]
    assert names == ["total_spin", "total_charge"]
    both = config(use_coulomb_term=True, embeddings={**CHARGE, **SPIN})
    assert both.quantities == both.features
    assert [one.name for one in quantities_in({"use_coulomb_term": True})] == ["total_charge"]
    assert quantities_in({}) == []


def test_spellings():
    assert config(use_coulomb_term=True).predict_partial_charges
    assert config(long_range_cutoff_angstrom=15.0).coulomb_cutoff == 15.0
    assert [config(embed_activation=name).embed_activation for name in ("swish", "none", "tanh")] == [
        "silu",
        "None",
        "tanh",
    ]
    assert activation("swish") == "silu"
    assert canonical_names()["long_range_cutoff_angstrom"] == "coulomb_cutoff"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"predict_partial_charges": True}, "without use_coulomb_term: charges are learned from energies"),
        ({"use_coulomb_term": True, "enable_cueq": True}, "false with use_coulomb_term"),
        ({"use_total_charge_embedding": True, "embeddings": SPIN}, "false with embeddings; keep one"),
        ({"coulomb_cutoff": 4.0}, "'coulomb_cutoff' is 4.0, but must be a number of at least 5"),
        ({"embed_activation": "gelu"}, "one of silu, swish, elu"),
    ],
)  # fmt: skip
def test_refused(options, words):
    with pytest.raises(ValueError, match="mace model: .*" + words):
        config(**options)


def test_no_program_of_an_edge_list():
    refuse_export(False)
    with pytest.raises(NotImplementedError, match=r"use_coulomb_term has no \.pt2"):
        refuse_export(True)
