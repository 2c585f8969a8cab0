import pytest
from lammps_cases import ModelFiles


@pytest.fixture(scope="session")
def model_files(tmp_path_factory):
    """Frozen models, ``model_files(kind)[name]``; compiling one takes a minute, so all tests share them."""
    folder = tmp_path_factory.mktemp("models")
    return lambda kind: ModelFiles(folder, kind)
