"""What the tests of imported models share: options of native models, a structure, and the comparison."""

import numpy as np
from helpers import our_results, random_frame
from native_models import SYMBOLS
from tolerances import IMPORTED

NON_LINEAR = "RealAgnosticResidualNonLinearInteractionBlock"
ATTENTIVE = "RealAgnosticAttResidualInteractionBlock"
DENSITY = {
    "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
    "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
}
MH_LIKE = {
    "interaction_cls": NON_LINEAR,
    "interaction_cls_first": NON_LINEAR,
    "edge_irreps": "2x0e + 2x1o",
    "use_edge_irreps_first": True,
    "use_agnostic_product": True,
    "apply_cutoff": False,
    "pair_repulsion": True,
    "distance_transform": "Agnesi",
}


def frame():
    coord, types, cell = random_frame(natoms=9, box_length=5.0, ntypes=3, seed=2, spacing=0.8)
    return coord, [SYMBOLS[t] for t in types], cell


def assert_imported(model, expected, coord, symbols, cell):
    types = [model.get_type_map().index(name) for name in symbols]
    actual = our_results(model, coord, types, cell)
    for key, value in expected.items():
        deviation = np.abs(actual[key] - value).max()
        assert deviation <= IMPORTED[key], f"{key}: {deviation:.1e}"
