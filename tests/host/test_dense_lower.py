"""The padded neighbour list, traced: the numbers of the compact graph at sizes that tracing never saw."""

import numpy as np
import pytest
import torch
from deepmd.pt.utils.nlist import extend_input_and_build_neighbor_list
from helpers import assert_close, random_frame, tiny_model
from lammps_cases import STRONG
from tolerances import NATIVE

KEYS = ("energy", "energy_redu", "energy_derv_r", "energy_derv_c_redu", "energy_derv_c")


def extended(model, natoms, nframes, width=200):
    """Frames with their images and a list of any width, as the host makes them."""
    frames = [random_frame(natoms=natoms, box_length=6.5, seed=natoms + i) for i in range(nframes)]
    coord, cell = (torch.tensor(np.stack([frame[i] for frame in frames])) for i in (0, 2))
    atype = torch.tensor(np.tile(frames[0][1], (nframes, 1)))
    coord, atype, mapping, nlist = extend_input_and_build_neighbor_list(
        coord, atype, model.get_rcut(), [width], mixed_types=True, box=cell
    )
    return coord.view(nframes, -1, 3), atype, nlist, mapping


@pytest.mark.parametrize("options", [{}, {"pair_exclude_types": [[0, 1]]}, {"precision": "float32"}])
def test_equals_the_graph(options):
    model = tiny_model(**STRONG, **options)
    traced = model.forward_common_lower_exportable(
        *extended(model, 7, 2, 60),
        do_atomic_virial=True,
        tracing_mode="symbolic",
        _allow_non_fake_inputs=True,
    )
    for natoms, nframes, width in ((7, 2, 60), (1, 1, 40), (19, 3, 200)):
        inputs = extended(model, natoms, nframes, width)
        result = traced(*inputs, None, None, None)
        expected = model.forward_common_lower(*inputs)
        for key in KEYS:
            assert_close(
                result[key].numpy(), expected[key].numpy(), NATIVE[options.get("precision", "float64")], key
            )
