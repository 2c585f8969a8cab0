"""A list that the host hands over is compared with the positions; see also ``tests/kernels/test_input_check.py``."""

import numpy as np
import pytest
import torch
from deepmd.pt.utils.nlist import extend_input_and_build_neighbor_list
from helpers import random_frame, tiny_model

LACKS = "the neighbour list lacks pairs within the cutoff, such as atoms"
NO_ENERGY = {"atomic_energies": {"O": 0.0, "H": 0.0}}


def listed(model, coord, types, cell, skin=1.0):
    """Extended atoms and the host's list: coordinates, types, list, owners."""
    coord, box = torch.tensor(coord)[None], torch.tensor(np.reshape(cell, (1, 9)))
    reach = model.get_rcut() + skin
    coord, types, owner, nlist = extend_input_and_build_neighbor_list(
        coord, torch.tensor(types)[None], reach, [400], mixed_types=True, box=box
    )
    return coord, types, nlist, owner


def without(nlist, owner, lost):
    """Take pairs out of a list, given by a function of the owners of centre and neighbour."""
    center = torch.arange(nlist.shape[1]).view(1, -1, 1).expand_as(nlist)
    neighbor = owner[0][nlist.clamp(min=0)]
    return torch.where(lost(center, neighbor) & (nlist >= 0), -1, nlist)


def energy(model, coord, types, nlist, owner):
    """Energy as a host asks for it."""
    return model.forward_lower(coord, types, nlist, owner, None, None, False, None, None)["energy"].item()


LOST = {
    "a bond": lambda i, j: (i + j == 1) & (i != j),
    "bonds of all": lambda i, j: i // 3 == j // 3,
    "frozen atoms": lambda i, j: (i < 5) & (j < 5),
    "an atom and all others": lambda i, j: (i == 3) | (j == 3),
    "everything": lambda i, j: i >= 0,
}


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("layers", [1, 2])
def test_lists_that_lack_pairs(lost, layers):
    model = tiny_model(num_interactions=layers)
    coord, types, nlist, owner = listed(model, *random_frame(12, 4.5, seed=1))
    energy(model, coord, types, nlist, owner)
    with pytest.raises(ValueError, match=LACKS) as found:
        energy(model, coord, types, without(nlist, owner, LOST[lost]), owner)
    for cure in ("special_bonds lj/coul 1 1 1", "neigh_modify exclude", "hybrid/overlay", "E0 = 0"):
        assert cure in str(found.value)


@pytest.mark.parametrize("first", ["RealAgnosticInteraction", "RealAgnosticResidual"])
def test_an_atom_that_is_left_out(first):
    """It is as if it was not there if a lone one has no energy, which a Residual first block gives it."""
    model = tiny_model(**NO_ENERGY, interaction_first=first.replace("Interaction", ""))
    coord, kinds, cell = random_frame(12, 4.5, seed=1)
    arguments = listed(model, coord, kinds, cell)
    lost = without(arguments[2], arguments[3], LOST["an atom and all others"])
    if first == "RealAgnosticResidual":
        with pytest.raises(ValueError, match=LACKS):
            energy(model, *arguments[:2], lost, arguments[3])
        return
    left = np.arange(12) != 3
    expected = energy(model, *listed(model, coord[left], kinds[left], cell))
    assert energy(model, *arguments[:2], lost, arguments[3]) == pytest.approx(expected, abs=1e-10)


def test_pairs_that_the_model_excludes():
    """A host may leave them out as well."""
    model = tiny_model(pair_exclude_types=[[1, 1]])
    coord, types, nlist, owner = listed(model, *random_frame(12, 4.5, seed=1))
    hydrogen = types[0, :12] == 1
    lost = without(nlist, owner, lambda i, j: hydrogen[i] & hydrogen[j])
    assert not torch.equal(lost, nlist)
    assert energy(model, coord, types, lost, owner) == energy(model, coord, types, nlist, owner)


@pytest.mark.parametrize(
    "change", [lambda nlist, owner: nlist.fill_(10**6), lambda nlist, owner: owner.fill_(12)]
)
def test_indices_out_of_range(change):
    model = tiny_model()
    coord, types, nlist, owner = listed(model, *random_frame(12, 4.5, seed=1))
    change(nlist, owner)
    with pytest.raises(
        ValueError, match="names atom 1000000, but there are|gives owners 12 to 12, but the frame has 12"
    ):
        energy(model, coord, types, nlist, owner)


def test_when_the_list_is_looked_at():
    """A frozen file: first, when the number of owned atoms changes, and at every hundredth evaluation."""
    model = torch.jit.script(tiny_model(num_interactions=1, max_ell=1))
    whole = listed(model, *random_frame(12, 4.5, seed=1))
    lost = (*whole[:2], without(*whole[2:], LOST["frozen atoms"]), whole[3])
    energy(model, *whole)
    for _ in range(99):
        energy(model, *lost)
    with pytest.raises(torch.jit.Error, match=LACKS):
        energy(model, *lost)
    energy(model, *listed(model, *random_frame(11, 4.5, seed=1)))
    with pytest.raises(torch.jit.Error, match=LACKS):
        energy(model, *lost)
