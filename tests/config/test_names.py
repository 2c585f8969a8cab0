"""Names: of MM types, of packages and their versions, and of the options that the host checks."""

import dataclasses

import pytest

from deepmd_gnn.config.argcheck import mace_model_args
from deepmd_gnn.config.checks import is_unbounded
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.mm_types import element_of, is_mm, mm_pairs
from deepmd_gnn.config.versions import check_versions, package_versions


@pytest.mark.parametrize(
    ("name", "element"), [("H", "H"), ("mH", "H"), ("HW", "H"), ("OW", "O"), ("mCu", "Cu")]
)
def test_elements_of_types(name, element):
    assert element_of(name) == element
    assert is_mm(name) == (name != element)


def test_mm_types_do_not_see_each_other():
    assert sorted(map(sorted, mm_pairs(["O", "OW", "mH"]))) == [[1, 1], [1, 2], [2, 2]]


def test_versions_of_this_environment_are_right():
    check_versions()
    assert {"deepmd-gnn", "torch"} <= set(package_versions())


def test_the_host_knows_every_option():
    known = {argument.name for argument in mace_model_args()}
    assert {option.name for option in dataclasses.fields(MaceConfig)} <= known


@pytest.mark.parametrize(
    ("blocks", "unbounded"),
    [
        (["RealAgnosticInteractionBlock", "RealAgnosticDensityResidualInteractionBlock"], False),
        (["RealAgnosticInteractionBlock", "RealAgnosticAttResidualInteractionBlock"], True),
        (["RealAgnosticResidualNonLinearInteractionBlock", None], True),
    ],
)
def test_blocks_with_messages_at_the_cutoff(blocks, unbounded):
    assert is_unbounded(blocks) == unbounded
