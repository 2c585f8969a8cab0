import shutil

import pytest
from documented import copy_example
from helpers import tiny_model
from lammps_cases import ModelFiles, freeze
from shared_files import once


@pytest.fixture(scope="session")
def model_files(kept):
    """Frozen models, ``model_files(kind)[name]``; compiling one takes a minute, so all tests share them."""
    return lambda kind: ModelFiles(kept / "models", kind)


@pytest.fixture(scope="session")
def water_models(shared_folder):
    """Three models of water, with random weights."""

    def make(folder):
        folder.mkdir()
        for seed, name in enumerate(("mace.pth", "second.pth", "third.pth")):
            freeze(
                tiny_model(r_max=3.0, num_channels=2, precision="float32", seed=seed, avg_num_neighbors=10.0),
                folder / name,
            )

    return once(shared_folder / "water_models", make)


@pytest.fixture
def water(tmp_path, water_models):
    """The folder of the water example, with few frames, and models of its elements."""
    folder = copy_example("water", tmp_path)
    shutil.copytree(water_models, folder, dirs_exist_ok=True)
    return folder
