"""New models have no jump at the cutoff; those that have one keep it, and it is said."""

import pytest
import torch
from deepmd.pt.model.model import get_model
from descriptors import model as descriptor_model
from helpers import TINY, tiny_model
from native_models import native
from nequip_models import tiny_nequip

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.native.reader import load_mace
from deepmd_gnn.tools.checks import PhysicsChecks, Results
from deepmd_gnn.tools.structures import invented_structure

BLOCKS = [
    {"interaction": "RealAgnosticAttResidual"},
    {"interaction": "RealAgnosticResidualNonLinear"},
    {"interaction_first": "RealAgnosticResidualNonLinear", "num_interactions": 1},
    {"interaction": "RealAgnosticAttResidual", "interaction_first": "RealAgnosticAttResidual"},
]


def smoothness(model):
    def evaluate(structure):
        coord, types = torch.tensor(structure.coord[None]), torch.tensor(structure.types[None])
        box = None if structure.cell is None else torch.tensor(structure.cell[None])
        out = {
            name: value.detach() for name, value in model(coord, types, box, do_atomic_virial=True).items()
        }
        atom_virial = out["atom_virial"][0].view(-1, 3, 3).numpy()
        return Results(
            float(out["energy"]),
            out["force"][0].numpy(),
            out["virial"].view(3, 3).numpy(),
            out["atom_energy"][0, :, 0].numpy(),
            atom_virial,
        )

    return PhysicsChecks(
        evaluate, invented_structure(["O", "H"], 2), model.get_rcut(), "float64"
    ).smoothness()


@pytest.mark.parametrize("options", BLOCKS, ids=lambda options: "-".join(map(str, options.values())))
def test_new_models_are_smooth(options, caplog):
    model = tiny_model(**options)
    assert model.config.apply_cutoff is False
    assert smoothness(model).passed
    assert not caplog.records
    # Built here: what is kept for all tests has said its warning before.
    jumping = get_model({**TINY, **options, "apply_cutoff": True}).eval()
    assert not smoothness(jumping).passed
    assert "apply_cutoff: true with" in caplog.text
    assert "RealAgnostic" in caplog.text


@pytest.mark.parametrize("kind", ["nequip", "descriptor", "embeddings"])
def test_other_networks_are_smooth(kind):
    charge = {"total_charge": {"type": "continuous", "per": "graph", "emb_dim": 4, "default": 1.0}}
    makers = {
        "nequip": tiny_nequip,
        "descriptor": descriptor_model,
        "embeddings": lambda: tiny_model(embeddings=charge),
    }
    assert smoothness(makers[kind]()).passed


def test_other_blocks_keep_the_envelope_on_the_basis(caplog):
    for kind in ("RealAgnosticResidual", "RealAgnosticDensityResidual"):
        assert MaceConfig(interaction=kind).apply_cutoff is True
        assert MaceConfig(interaction=kind, apply_cutoff=False).apply_cutoff is False
    # Of a block that one layer does not have.
    assert MaceConfig(interaction="RealAgnosticAttResidual", num_interactions=1).apply_cutoff is True
    tiny_model()
    assert not caplog.records


@pytest.mark.parametrize("apply_cutoff", [True, False])
def test_imports_keep_what_they_have(apply_cutoff, tmp_path):
    options = {"interaction_cls": "RealAgnosticAttResidualInteractionBlock", "apply_cutoff": apply_cutoff}
    torch.save(native(**options), tmp_path / "m.model")
    model = load_mace(tmp_path / "m.model")
    assert model.config.apply_cutoff is apply_cutoff
    data = model.serialize()
    assert type(model).deserialize(data).config.apply_cutoff is apply_cutoff


def test_older_weights_of_such_blocks_are_said(caplog):
    """Their version had another default, and their tensors do not tell."""
    options = {"interaction": "RealAgnosticAttResidual"}
    state = {k: v for k, v in tiny_model(**options).state_dict().items() if not k.endswith(".options")}
    tiny_model(**options).load_state_dict(state)
    assert "If its input did not have this key it was true" in caplog.text
