"""``dp convert-backend`` to the host's portable formats and back changes no number, for every architecture."""

import itertools

import pytest
import torch
from architectures import architectures
from deepmd.main import main as dp
from helpers import random_frame, tiny_model
from lammps_cases import STRONG

from deepmd_gnn.files.model_files import read_model_file
from deepmd_gnn.kernels.tables.scripted import tabulate
from deepmd_gnn.mace import MaceModel

pytestmark = pytest.mark.slow
ALL = {**architectures("conformance"), **architectures("frozen")}


def stored(path):
    (model,) = read_model_file(path).models
    return model


ONE_WAY = ("a.pth", "b.dp", "c.yaml", "d.pth")
# The host writes and reads YAML in Python: ten seconds for the radial networks of attentive blocks.
BOTH_WAYS = ("a.pth", "b.yaml", "c.dp", "d.yaml", "e.dp", "f.pth")


@pytest.mark.parametrize(("name", "chain"), [("default", BOTH_WAYS), *((name, ONE_WAY) for name in ALL)])
def test_round_trip(name, chain, tmp_path):
    """Through both formats, and from each to the other."""
    original = tiny_model(**STRONG, **ALL[name])
    files = [tmp_path / each for each in chain]
    first, back = files[0], files[-1]
    # As a freeze does; the last file has tables as well, made anew of the weights.
    tabulate(original)
    torch.jit.script(original).save(str(first))
    for source, target in itertools.pairwise(files):
        dp(["convert-backend", str(source), str(target)])
    before, after = stored(first), stored(back)
    assert after.section == before.section
    assert after.state.keys() == before.state.keys()
    for key, value in before.state.items():
        assert value.dtype == after.state[key].dtype, key
        assert value.tobytes() == after.state[key].tobytes(), key
    # The same weights in the same architecture.
    again = torch.jit.load(str(back)).eval()
    coord, types, cell = random_frame(6, 6.0)
    inputs = torch.tensor(coord[None]), torch.tensor(types[None]), torch.tensor(cell[None])
    for key, value in original(*inputs).items():
        torch.testing.assert_close(again(*inputs)[key], value, rtol=1e-5, atol=1e-5)


def test_exported_from_the_portable_format(tmp_path):
    """HDF5 gives arrays without axes back as numbers, which JSON does not know."""
    model = tiny_model(pair_repulsion=True)
    torch.jit.script(model).save(str(tmp_path / "a.pth"))
    for source, target in (("a.pth", "b.dp"), ("b.dp", "c.pte")):
        dp(["convert-backend", str(tmp_path / source), str(tmp_path / target)])
    before, after = stored(tmp_path / "a.pth"), stored(tmp_path / "c.pte")
    for key, value in after.state.items():
        assert value.tobytes() == before.state[key].tobytes(), key


def test_numbers_in_the_place_of_arrays():
    model = tiny_model()
    data = model.serialize()
    assert any(value.shape == () for value in data["@variables"].values())
    data["@variables"] = {name: value[()] for name, value in data["@variables"].items()}
    again = MaceModel.deserialize(data)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
