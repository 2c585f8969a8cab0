import faulthandler
import functools
import gc
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Half of the time for the part of a `.pt2` that calls one kernel after the other; the kernels are compiled as for users.
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")
# DeePMD-kit's loaders fork this process, with all that was imported, for every training; the training of the quickstart runs with
# workers, as that of users.
os.environ.setdefault("NUM_WORKERS", "0")
# Waiting ranks of MPICH spin; where there are more of them than cores, they keep those from work that have some.
os.environ.setdefault("MPIR_CVAR_CH4_PROGRESS_THROTTLE", "1")
os.environ.setdefault("MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT", "200")

import pytest
import torch
import torch._inductor.config as inductor_config

for folder in ("host", ""):
    sys.path.insert(0, str(Path(__file__).parent / folder))

from shared_files import kept_folder, once, remove_old  # noqa: E402

# As in a freeze of ours: see torch_fixes.PLAIN_HEADERS.
inductor_config.aot_inductor.precompile_headers = False


# A twentieth of the time of all tests was spent on looking for garbage among what torch and the host have imported.
gc.set_threshold(50_000, 20, 100)


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Evaluate TorchScript as it is written: to rewrite a graph takes longer than all that a test does with it."""
    torch._C._set_graph_executor_optimize(False)
    # DeePMD-kit's entry point would send the stack of a crash into the output that pytest captures, and that ends with the process.
    faulthandler.enable = lambda *arguments, **options: None
    if "PYTEST_XDIST_WORKER" not in os.environ:
        remove_old(config)


# Files that take longest come first, so that no worker is left alone with one of them.
LONGEST = (
    "test_exportable_workflow",
    "test_export_architectures",
    "test_benchmarks",
    "test_converted",
    "test_kernels",
    "test_training",
    "test_workflows",
    "test_documented",
    "test_triton_kernels",
    "test_compiled_step",
    "test_lammps",
)


def pytest_collection_modifyitems(items):
    """Sort the files."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state and one thread's worth of noise."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _optimised(request):
    """Tests with this marker evaluate TorchScript as users do."""
    marked = request.node.get_closest_marker("optimised") is not None
    torch._C._set_graph_executor_optimize(marked)
    yield
    torch._C._set_graph_executor_optimize(False)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A temporary folder of this run, for all workers."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def kept(pytestconfig, shared_folder):
    """A folder for all workers, and for the next run of the same code, see shared_files.py."""
    return kept_folder(pytestconfig, shared_folder)


def _add_module(digest, module):
    """Everything that a module's numbers depend on: classes, plain attributes, parameters and buffers."""
    for name, part in module.named_modules():
        plain = {k: v for k, v in vars(part).items() if isinstance(v, (bool, int, float, str, list, tuple))}
        digest.update(repr([name, type(part).__qualname__, sorted(plain.items())]).encode())
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())


@pytest.fixture(autouse=True, scope="session")
def _tables_once(kept):
    """Look for the coarsest table of a layer once: seconds for every layer that a test has kernels or tables for."""
    from deepmd_gnn.kernels.cpu import densities, generated

    of_layer, of_densities = generated.radial_table, densities.density_table

    def table(energy_model, interactions, key, search):
        digest = hashlib.sha256(repr([energy_model.r_max, energy_model.ntypes, *key]).encode())
        digest.update(energy_model.atomic_numbers.cpu().numpy().tobytes())
        for part in (energy_model.radial_embedding, *interactions):
            _add_module(digest, part)
        path = once(
            kept / "tables" / f"{digest.hexdigest()[:32]}.pt",
            lambda path: torch.save(search()._asdict(), path),
        )
        return generated.RadialTable(**torch.load(path, weights_only=True))

    def radial_table(energy_model, interaction, dtype):
        search = functools.partial(of_layer, energy_model, interaction, dtype)
        return table(energy_model, [interaction], (dtype,), search)

    def density_table(energy_model, dtype):
        layers = [energy_model.interactions[layer] for layer in densities.density_layers(energy_model)]
        search = functools.partial(of_densities, energy_model, dtype)
        return table(energy_model, layers, (dtype, "densities"), search) if layers else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generated, "radial_table", radial_table)
        patch.setattr(densities, "density_table", density_table)
        yield


@pytest.fixture(autouse=True, scope="session")
def _not_opened_twice():
    """Skip what a freeze does at its end, a process that opens the file: these tests open it. See test_frozen_check.py."""
    from deepmd_gnn.host import freezing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(freezing, "check_file", lambda path, data: None)
        yield


@pytest.fixture(scope="session")
def model_files(kept):
    """Frozen models, ``model_files(kind)[name]``; compiling one takes a minute, so all tests share them."""
    from lammps_cases import ModelFiles

    return lambda kind: ModelFiles(kept / "models", kind)


@pytest.fixture(scope="session")
def water_models(shared_folder):
    """Three models of water, with random weights."""
    from helpers import tiny_model
    from lammps_cases import freeze

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
    from documented import copy_example

    folder = copy_example("water", tmp_path)
    shutil.copytree(water_models, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def _programs():
    from preloaded import programs

    with programs() as folder:
        yield folder, _imports_read()


def _imports_read():
    """Variables of the environment, also those that libraries have set behind Python's back, that decide whether a process may be a fork."""
    from preloaded.server import READ_AT_IMPORT

    lines = subprocess.run(["env", "-0"], capture_output=True, text=True, check=True).stdout.split("\0")
    return dict(line.split("=", 1) for line in lines if line.startswith(READ_AT_IMPORT))


@pytest.fixture(scope="module")
def preloaded(_programs):
    """Python, `dp`, `deepmd-gnn` and `lmp` that tests of a module start have their imports done, see preloaded/."""
    folder, before = _programs
    beside = str(Path(sys.executable).parent)
    with pytest.MonkeyPatch.context() as patch:
        # What earlier tests, or libraries they used, have left would make every process import for itself.
        for name in _imports_read().keys() - before.keys():
            patch.delenv(name, raising=False)
            os.unsetenv(name)
        for name, value in before.items():
            patch.setenv(name, value)
        patch.setattr(sys, "executable", str(folder / "python"))
        patch.setenv("PATH", os.pathsep.join([str(folder), beside, os.environ["PATH"]]))
        yield
