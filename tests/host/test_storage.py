"""A model as plain data and as a checkpoint: names, what is refused, and parts that two models share."""

import copy

import pytest
import torch
from toy_network import ToyModel

from deepmd_gnn.host.sharing import Descriptor, FittingNet, Part
from deepmd_gnn.host.storage import FORMAT, definition, rebuilt, serialized
from deepmd_gnn.host.stored_names import StoredModel, fit_stored


def model_of(type_map=("O", "H"), **options):
    return ToyModel(list(type_map), **{"avg_num_neighbors": 8.0, "scale": 1.3, **options}).eval()


# --- plain data -------------------------------------------------------------------------------------------------


def test_definition_builds_the_same_model():
    model = model_of(layers=3, pair_exclude_types=[[0, 1]], atom_exclude_types=[1])
    section = definition(model)
    assert section["type"] == "toy"
    again = ToyModel(**{key: value for key, value in section.items() if key != "type"})
    assert definition(again) == section
    assert again.state_dict().keys() == model.state_dict().keys()


def test_serialized_models_come_back():
    model = model_of(seed=5)
    model.set_out_bias(torch.tensor([-5.0, -1.25]))
    data = serialized(model)
    # The options are told by the definition, and compared when weights are loaded.
    assert not {"descriptor.options", "fitting_net.options"} & set(data["@variables"])
    again = rebuilt(ToyModel, data)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize(("version", "refused"), [(FORMAT, False), (FORMAT + 1, True)])
def test_formats_of_the_future(version, refused):
    """A newer version of the package alone is no reason, nor is a number of the format alone."""
    data = {**serialized(model_of()), "@version": version}
    rebuilt(ToyModel, data)
    data["@versions"] = {**data["@versions"], "deepmd-gnn": "99.0.0"}
    if not refused:
        rebuilt(ToyModel, data)
        return
    with pytest.raises(ValueError, match=rf"99\.0\.0.*Its format is {FORMAT + 1}"):
        rebuilt(ToyModel, data)


# --- checkpoints ------------------------------------------------------------------------------------------------


def test_names_in_checkpoints_are_the_hosts():
    state = model_of().state_dict(prefix="model.Default.")
    own = {key.removeprefix("model.Default.") for key in state}
    assert {"descriptor.elements", "descriptor.options", "fitting_net.scale", "fitting_net.options"} <= own
    assert not any(key.startswith("energy_model.") for key in own)


def test_both_kinds_of_names_are_read():
    """Those of checkpoints, and the model's own, as TorchScript files have them."""
    source = model_of(seed=3)
    plain = {**dict(source.named_parameters()), **dict(source.named_buffers())}
    for state in (source.state_dict(), plain):
        model = model_of()
        assert isinstance(model, StoredModel)
        model.load_state_dict(dict(state))
        assert torch.equal(model.energy_model.elements, source.energy_model.elements)


def test_weights_of_another_network_are_refused():
    """The seed and the hint about neighbours may differ, what the numbers depend on may not."""
    model_of(sel=10, seed=2).load_state_dict(model_of().state_dict())
    with pytest.raises(ValueError, match=r"'r_max' is 4\.0 in the file and 3\.5 in the model section"):
        model_of(r_max=3.5).load_state_dict(model_of().state_dict())


def test_loaded_statistics_are_not_merged():
    model = model_of()
    model.counted = {"scale": [1.0, 2.0]}
    model.load_state_dict(model_of().state_dict())
    assert model.counted == {}


def test_lacking_weights_are_named():
    """The host starts from frozen files without asking; the rest would be random."""
    model = model_of()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    fit_stored(model, dict(state), "")
    del state["energy_model.mixing"]
    with pytest.raises(ValueError, match=r"lacks 1 weights of this model, energy_model.mixing for example"):
        fit_stored(model, state, "")


def test_elements_in_the_order_of_the_file():
    source, model = model_of(["H", "O"], seed=3), model_of()
    source.set_out_bias(torch.tensor([-1.25, -5.0]))
    model.load_state_dict(source.state_dict())
    assert torch.equal(model.energy_model.elements, source.energy_model.elements[[1, 0]])
    assert model.out_bias.flatten().tolist() == [-5.0, -1.25]


# --- parts of two models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [Descriptor, FittingNet])
def test_a_part_is_shared_and_nothing_else(part):
    """Modules and the statistic of the part are the same objects afterwards."""
    one, other = Parts(), Parts()
    before = copy.copy(vars(one.energy_model)["_modules"])
    part(one).share_params(part(other), 0)
    ours, theirs = one.energy_model, other.energy_model
    reads = part is FittingNet
    assert (ours.readouts is theirs.readouts) == reads
    assert (ours.interaction is theirs.interaction) != reads
    assert (ours.scale is theirs.scale) == reads
    assert (ours.avg_num_neighbors is theirs.avg_num_neighbors) != reads
    assert set(vars(ours)["_modules"]) == set(before)
    names = [name for name, _ in part(one).named_parameters()]
    assert names == [f"{'readouts' if reads else 'interaction'}.{kind}" for kind in ("weight", "bias")]


class Parts:
    """A model of two modules: what :class:`~deepmd_gnn.host.sharing.Part` reads of one."""

    type_name = "mace"

    def __init__(self, counted=None, **config):
        self.energy_model = torch.nn.Module()
        self.energy_model.interaction = torch.nn.Linear(2, 2)
        self.energy_model.readouts = torch.nn.Linear(2, 1)
        for name in ("scale", "avg_num_neighbors"):
            self.energy_model.register_buffer(name, torch.tensor(1.0))
        self.type_map = config.pop("type_map", ["O", "H"])
        self.counted = counted or {}
        self.config = Config(**config)


class Config:
    def __init__(self, **options):
        vars(self).update({"r_max": 4.0, "gate": "silu", "seed": 1, **options})


@pytest.mark.parametrize(
    ("part", "name", "expected"),
    [(Descriptor, "avg_num_neighbors", (30 + 10) / (2 + 2)), (FittingNet, "scale", ((30 + 10) / 4) ** 0.5)],
)
def test_shared_statistics_are_those_of_all_data(part, name, expected):
    one, other = Parts({name: [30.0, 2.0]}), Parts({name: [10.0, 2.0]})
    part(one).share_params(part(other), 0)
    assert float(getattr(one.energy_model, name)) == pytest.approx(expected)
    assert other.counted[name] == [40.0, 4.0]
    for loaded in (Parts(), Parts({name: [1.0, 1.0]})):  # from a checkpoint; or when a training is resumed
        part(loaded).share_params(part(other), 0, resume=bool(loaded.counted))
        assert float(getattr(loaded.energy_model, name)) == pytest.approx(expected)
    assert other.counted[name] == [40.0, 4.0]


def test_parts_that_cannot_be_shared():
    base = Descriptor(Parts())
    with pytest.raises(ValueError, match="'descriptor' is shared at level 1, but only level 0"):
        Descriptor(Parts()).share_params(base, 1)
    with pytest.raises(ValueError, match=r"between type maps \['O', 'H'\] and \['H', 'O'\]"):
        Descriptor(Parts(type_map=["H", "O"])).share_params(base, 0)
    with pytest.raises(ValueError, match=r"differ in r_max \(4\.0 and 5\.0\)"):
        Descriptor(Parts(r_max=5.0)).share_params(base, 0)
    # Seeds may differ, and what belongs to the other part.
    Descriptor(Parts(seed=2, gate="tanh")).share_params(base, 0)
    with pytest.raises(ValueError, match=r"differ in gate \('silu' and 'tanh'\)"):
        FittingNet(Parts(gate="tanh")).share_params(FittingNet(Parts()), 0)


def test_tensors_are_found_by_their_names_in_checkpoints():
    model = model_of()
    assert Descriptor(model).elements is model.energy_model.elements
    assert Descriptor(model).options is model.network_options
    assert FittingNet(model).scale is model.energy_model.scale
    with pytest.raises(AttributeError):
        _ = Part(model)._private
    assert [name for name, _ in FittingNet(Parts()).named_children()] == ["readouts"]
