"""Our energy function against native ScaleShiftMACE with the same weights, option by option."""

import pytest
from architectures import architectures
from helpers import assert_close, native_results, our_results, random_frame, tiny_model
from tolerances import NATIVE

OPTIONS = architectures("native")


# One option after the other: the native model is built once for each.
@pytest.mark.parametrize("periodic", [True, False], ids=["pbc", "free"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("option", OPTIONS)
def test_equals_native(option, precision, periodic):
    model = tiny_model(**OPTIONS[option], precision=precision)
    coord, atype, cell = random_frame(ntypes=len(model.get_type_map()), box_length=5.5)
    cell = cell if periodic else None
    expected = native_results(model, coord, atype, cell)
    actual = our_results(model, coord, atype, cell)
    bias = model.out_bias[0, atype, 0].numpy()
    tolerance = NATIVE[precision]
    assert_close(actual["energy"] - bias.sum(), expected["energy"], tolerance, "energy")
    assert_close(actual["atom_energy"][:, 0] - bias, expected["atom_energy"], tolerance, "atomic energy")
    assert_close(actual["force"], expected["force"], tolerance, "force")
    if periodic:
        assert_close(actual["virial"], expected["virial"], tolerance, "virial")
