"""A toy network and MACE pass the same suite."""

from typing import ClassVar

import pytest
from conformance import Conformance
from helpers import tiny_model
from toy_network import ToyModel


class TestToy(Conformance):
    LAYERED: ClassVar = {"layers": 3}

    @pytest.fixture
    def make(self):
        return lambda **options: ToyModel(
            ["O", "H"], **{"avg_num_neighbors": 8.0, "scale": 1.3, **options}
        ).eval()


class TestMace(Conformance):
    @pytest.fixture
    def make(self):
        return tiny_model
