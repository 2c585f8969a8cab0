"""A toy network and MACE pass the same suite."""

from typing import ClassVar

import pytest
from architectures import architectures
from conformance import Conformance, ConformanceOfFiles
from helpers import tiny_model
from toy_network import ToyModel

MACE = architectures("conformance")


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
        return tiny_model(num_interactions=3)


def test_thirteen_architectures():
    assert len(MACE) >= 13
