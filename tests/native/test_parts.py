"""Reading and writing native models, part by part: heads, options, weights of another normalisation or basis."""

import json

import numpy as np
import pytest
import torch
from helpers import tiny_model
from native_models import native

from deepmd_gnn.files.native_file import NativeModule, NotConvertible, read_native
from deepmd_gnn.native.committees import committee
from deepmd_gnn.native.conversion import save_checkpoint
from deepmd_gnn.native.couplings import adopt_couplings
from deepmd_gnn.native.description import HeadError, NativeDescription, choose_head, describe
from deepmd_gnn.native.reader import load_mace
from deepmd_gnn.native.weights import drop_unread, load_weights, select_head, unify_neighbors
from deepmd_gnn.native.writer import load_checkpoint, native_from
from deepmd_gnn.nn.monomials import collect


def tree_of(model, tmp_path):
    torch.save(model, tmp_path / "x.model")
    return read_native(tmp_path / "x.model")


# --- description ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original():
    return native(heads=["a", "b"], num_interactions=2, correlation=[2, 1], radial_MLP=[8, 6])


@pytest.fixture(scope="module")
def tree(original, tmp_path_factory):
    return tree_of(original, tmp_path_factory.mktemp("native"))


def test_options_are_those_it_was_made_with(tree, original):
    found = describe(tree, "b")
    assert (found.type_map, found.heads, found.head) == (["H", "C", "O"], ["a", "b"], 1)
    assert found.neighbors == [7.25, 7.25]
    energies = original.atomic_energies_fn.atomic_energies[1] + float(original.scale_shift.shift[1])
    assert found.options["atomic_energies"] == pytest.approx(dict(zip("HCO", energies.tolist(), strict=True)))
    expected = {
        "r_max": 4.3, "num_radial_basis": 4, "num_cutoff_basis": 5, "max_ell": 2, "correlation": [2, 1],
        "interaction": "RealAgnosticResidualInteractionBlock", "interaction_first": "RealAgnosticInteractionBlock",
        "hidden_irreps": "4x0e + 4x1o", "MLP_irreps": "3x0e", "radial_MLP": [8, 6], "precision": "float64",
        "pair_repulsion": False, "use_so3": False, "distance_transform": "None", "radial_type": "bessel",
    }  # fmt: skip
    assert {key: found.options[key] for key in expected} == expected
    assert found.options["scale"] == pytest.approx(float(original.scale_shift.scale[1]))


def test_heads(tree):
    assert choose_head(tree, "b") == (["a", "b"], 1)
    with pytest.raises(HeadError, match=r"has 2 heads: a, b\. Choose one with --head NAME"):
        choose_head(tree, None)
    with pytest.raises(HeadError, match="no head 'c'. It has: a, b"):
        choose_head(tree, "c")
    tree.stored_head = 1  # of a file for LAMMPS
    assert choose_head(tree, None) == (["a", "b"], 1)
    tree.stored_head = None


# --- weights ----------------------------------------------------------------------------------------------------


def description(options=None, heads=("a",), head=0, neighbors=(7.0,)):
    options = {
        "MLP_irreps": "2x0e",
        "interaction": "Residual",
        "interaction_first": "Residual",
        **(options or {}),
    }
    return NativeDescription(
        {**options, "avg_num_neighbors": neighbors[0]}, ["H"], list(heads), head, list(neighbors)
    )


@pytest.mark.parametrize("head", [0, 1, 2])
def test_a_head_alone_gives_its_energy(head):
    """Native computes all heads side by side; e3nn divides by the root of the number of all inputs."""
    heads, width, channels = 3, 2, 5
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    x = normal(4, channels)
    first, middle, last = (
        normal(channels, heads * width),
        normal(heads * width, heads * width),
        normal(heads * width, heads),
    )
    # Heads do not share hidden units: native masks what leads from one to another.
    same = torch.block_diag(*[torch.ones(width, width)] * heads).double()
    mask = torch.block_diag(*[torch.ones(width, 1)] * heads).double()
    total = (heads * width) ** 0.5
    hidden = torch.tanh(x @ first / channels**0.5)
    hidden = torch.tanh(hidden @ (middle * same) / total)
    expected = (hidden @ (last * mask) / total)[:, head]
    weights = {
        "readouts.0.linear.weight": normal(channels * heads),
        "readouts.1.linear_1.weight": first.flatten(),
        "readouts.1.linear_mid.weight": middle.flatten(),
        "readouts.1.linear_mid.bias": normal(heads * width),
        "readouts.1.linear_2.weight": last.flatten(),
        "readouts.1.linear_2.bias": normal(heads),
    }
    before = dict(weights)
    select_head(weights, description(heads="abc", head=head))
    w1, w2, w3 = (weights[f"readouts.1.linear_{k}.weight"] for k in ("1", "mid", "2"))
    hidden = torch.tanh(x @ w1.view(channels, width) / channels**0.5)
    hidden = torch.tanh(hidden @ w2.view(width, width) / width**0.5)
    torch.testing.assert_close((hidden @ w3.view(width, 1) / width**0.5)[:, 0], expected)
    linear = before["readouts.0.linear.weight"].view(channels, heads)[:, head]
    assert torch.equal(weights["readouts.0.linear.weight"], linear)
    biases = (
        before["readouts.1.linear_mid.bias"].view(heads, width)[head],
        before["readouts.1.linear_2.bias"][head],
    )
    assert torch.equal(weights["readouts.1.linear_mid.bias"], biases[0])
    assert weights["readouts.1.linear_2.bias"].tolist() == [float(biases[1])]


def test_a_single_head_is_left_alone():
    weights = {"readouts.0.linear.weight": torch.rand(4)}
    before = dict(weights)
    select_head(weights, description())
    assert weights == before


@pytest.mark.parametrize(
    ("kind", "scaled"), [("Residual", True), ("Density", False), ("ResidualNonLinear", False)]
)
def test_layers_are_divided_by_one_number(kind, scaled):
    """By that of the first; blocks that divide by a density are not divided by it."""
    names = [f"interactions.{k}.linear.weight" for k in range(3)]
    weights = {name: torch.ones(2) for name in names}
    unify_neighbors(weights, description({"interaction": kind}, neighbors=(6.0, 3.0, 6.0)))
    expected = [1.0, 2.0 if scaled else 1.0, 1.0]
    assert [float(weights[name][0]) for name in names] == expected


def test_what_no_readout_reads_is_dropped():
    network = tiny_model(num_interactions=1).energy_model
    stem = "products.0.symmetric_contractions.contractions"
    count = network.products[0].linear.weight.numel()
    weights = {
        f"{stem}.0.weights_max": torch.ones(1), f"{stem}.1.weights_max": torch.ones(1), f"{stem}.1.weights.0": torch.ones(1),
        "products.0.linear.weight": torch.arange(2.0 * count),
    }  # fmt: skip
    drop_unread(weights, network)
    assert set(weights) == {f"{stem}.0.weights_max", "products.0.linear.weight"}
    assert torch.equal(weights["products.0.linear.weight"], torch.arange(float(count)))
    two = {f"{stem}.1.weights_max": torch.ones(1)}
    drop_unread(two, tiny_model().energy_model)
    assert two


@pytest.mark.parametrize("changed", [False, True])
def test_couplings_of_another_basis(changed, tmp_path):
    """Their basis is ours times an invertible matrix: the weights are those of ours times its inverse."""
    model = tiny_model()
    contraction = native_from(model).products[0].symmetric_contractions
    ours = model.energy_model.products[0].symmetric_contractions
    random = np.random.default_rng(0)
    stem = "products.0.symmetric_contractions."
    originals, expected, weights = {}, {}, {}
    for index, part in enumerate(contraction.contractions):
        for order in (1, 2):
            name = f"contractions.{index}.weights" + ("_max" if order == 2 else ".0")
            weight = contraction.state_dict()[name].double()
            u = originals[stem + name] = getattr(part, f"U_matrix_{order}").clone()
            count = u.shape[-1]
            change = (
                torch.tensor(random.normal(size=(count, count)) + 3 * np.eye(count))
                if changed
                else torch.eye(count).double()
            )
            getattr(part, f"U_matrix_{order}").copy_(u @ change)
            expected[stem + name] = order, polynomial(u, order, weight)
            weights[stem + name] = torch.einsum("qp,zpc->zqc", torch.linalg.inv(change), weight)
    tree = NativeModule(_record(Holder(contraction), tmp_path))
    adopt_couplings(weights, stem, tree, ours)
    for name, (order, values) in expected.items():
        # Where couplings depend on each other, several weights have the same polynomial.
        found = polynomial(originals[name], order, weights[name])
        for monomial, value in values.items():
            np.testing.assert_allclose(found[monomial], value, rtol=1e-9, atol=1e-9)
    contraction.contractions[0].U_matrix_2.add_(1.0)
    tree = NativeModule(_record(Holder(contraction), tmp_path))
    with pytest.raises(NotConvertible, match="are not those of MACE"):
        adopt_couplings(weights, stem, tree, ours)


def polynomial(couplings, order, weight):
    """Coefficients (elements, components, channels) of each monomial."""
    u = couplings.double().numpy()
    tables = collect(u if u.ndim == order + 2 else u[None])  # scalars come without the axis of components
    return {m: np.einsum("mp,zpc->zmc", table, weight.numpy()) for m, table in tables.items()}


class Holder(torch.nn.Module):
    def __init__(self, contraction):
        super().__init__()
        self.symmetric_contractions = contraction


def _record(module, tmp_path):
    from deepmd_gnn.files.safe_pickle import TorchFile

    torch.save(module, tmp_path / "part.pt")
    return TorchFile(tmp_path / "part.pt").content


def test_weights_that_do_not_fit(tree):
    found = describe(tree, "a")
    options = {**found.options, "type_map": found.type_map, "num_channels": None, "max_L": None}
    network = tiny_model(**{**options, "MLP_irreps": "5x0e"}).energy_model
    words = r"'readouts.1.linear_1.weight' has shape \(12,\) in the file, but a model of its kind has \(20,\)"
    with pytest.raises(NotConvertible, match=words):
        load_weights(network, tree, found)


# --- whole models -----------------------------------------------------------------------------------------------


def test_there_and_back(tmp_path):
    """Ours as native, read again: the same weights, options and statistics."""
    model = tiny_model(max_ell=1, num_interactions=1, max_L=0, correlation=1)
    torch.save(native_from(model), tmp_path / "x.model")
    again = load_mace(tmp_path / "x.model")
    assert again.type_map == model.type_map
    assert torch.equal(again.out_bias, model.out_bias)
    for name, value in model.energy_model.state_dict().items():
        torch.testing.assert_close(again.energy_model.state_dict()[name], value, rtol=1e-14, atol=0.0)


def test_checkpoints_are_loaded_with_their_branch(tmp_path):
    model = tiny_model()
    save_checkpoint(model, tmp_path / "x.pt")
    loaded = load_checkpoint(tmp_path / "x.pt")
    assert not loaded.training
    for name, value in model.state_dict().items():
        if name not in ("network_options", "readout_options"):
            assert torch.equal(loaded.state_dict()[name], value), name
    with pytest.raises(ValueError, match="has no branches; leave out --branch"):
        load_checkpoint(tmp_path / "x.pt", "water")
    state = {f"model.water.{name}": value for name, value in model.state_dict().items()}
    heads = {"water": json.loads(model.model_def_script), "ice": {"type": "standard"}}
    state["_extra_state"] = {"model_params": {"model_dict": heads}, "train_infos": {}}
    torch.save({"model": state}, tmp_path / "two.pt")
    assert torch.equal(load_checkpoint(tmp_path / "two.pt", "water").out_bias, model.out_bias)
    with pytest.raises(ValueError, match="has the branches water, ice. Choose one with --branch NAME"):
        load_checkpoint(tmp_path / "two.pt")
    with pytest.raises(ValueError, match="a model of type 'standard', not 'mace'"):
        load_checkpoint(tmp_path / "two.pt", "ice")


@pytest.mark.parametrize("options", [{"distance_transform": "OldSoft"}, {"atom_exclude_types": [0]}])
def test_models_that_native_does_not_know(options):
    with pytest.raises(ValueError, match="OldSoft|atom_exclude_types"):
        native_from(tiny_model(**options))


def test_types_of_a_committee_are_those_of_the_first(monkeypatch):
    """Numbers are translated, padding stays, and everything else is the model's own."""

    class Pot:
        def __init__(self, file):
            self.file, self.seen = file, None

        def get_type_map(self):
            return {"a": ["O", "H"], "b": ["C", "H", "O"]}[self.file]

        def eval(self, coords, cells, types, *rest, **options):
            self.seen = (np.asarray(types).tolist(), rest, options)
            return self.file

    monkeypatch.setattr("deepmd.infer.DeepPot", Pot)
    first, second = committee(["a", "b"])
    assert isinstance(first, Pot)
    assert second.eval(None, None, [[0, 1, -1]], True, atomic=True) == "b"
    assert second.seen == ([[2, 1, -1]], (True,), {"atomic": True})
    assert second.get_type_map() == ["O", "H"]
    with pytest.raises(ValueError, match="C missing. Give models of the same elements"):
        committee(["b", "a"])
