"""A toy network, MACE and NequIP pass the same suite."""

from typing import ClassVar

import pytest
from architectures import architectures, nequip_architectures
from conformance import Conformance, ConformanceOfFiles
from helpers import tiny_model
from lammps_cases import MODELS, STRONG
from nequip_models import tiny_nequip
from toy_network import ToyModel

MACE = architectures("conformance")
NEQUIP = nequip_architectures("conformance")


def toy(**options):
    return ToyModel(["O", "H"], **{"avg_num_neighbors": 8.0, "scale": 1.3, **options}).eval()


class TestToy(Conformance, ConformanceOfFiles):
    LAYERED: ClassVar = {"layers": 3}

    @pytest.fixture
    def make(self):
        return toy


class TestMace(Conformance):
    @pytest.fixture(params=MACE)
    def make(self, request):
        return lambda **options: tiny_model(**{**MACE[request.param], **options})


class TestFilesOfMace(ConformanceOfFiles):
    @pytest.fixture
    def model(self):
        return tiny_model(**STRONG, **MODELS["three_layers"])

    def frozen(self, model, kind, request):
        """The file of the LAMMPS cases, of the same model."""
        return request.getfixturevalue("model_files")(kind)["three_layers"]


class TestNequip(Conformance):
    @pytest.fixture(params=NEQUIP)
    def make(self, request):
        return lambda **options: tiny_nequip(**{**NEQUIP[request.param], **options})


class TestFilesOfNequip(ConformanceOfFiles):
    @pytest.fixture
    def model(self):
        # One exchange of scalars and vectors: compiling takes as long as there are paths.
        return tiny_nequip()


def test_thirteen_architectures():
    assert len(MACE) >= 13
