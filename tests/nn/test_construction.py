"""Building and loading networks leaves the process alone, also for the moment that it takes and from several threads."""

import os
import subprocess
import sys
import threading
import time
from types import FunctionType

import e3nn
import pytest
import torch
from deepmd.infer import DeepPot
from helpers import tiny_model
from native_models import default_dtype
from torch._inductor.codegen.cpp import TilingSelect

from deepmd_gnn import load_mace
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.files.torch_fixes import sound_vectorisation
from deepmd_gnn.mace_construction import _recorded, construction
from deepmd_gnn.mace_network import build_native
from deepmd_gnn.native.conversion import save_checkpoint
from deepmd_gnn.native.writer import export_native

SMALL = MaceConfig(num_channels=2, max_L=1, max_ell=1, correlation=2, seed=3, precision="float32")
FLAG = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def state_of_process():
    """What a thread sees of the process, by making and evaluating things."""
    layer = torch.nn.Linear(2, 2)
    layer.weight.sum().backward()
    return (
        torch.get_default_dtype(),
        torch.tensor([1.0]).dtype,
        layer(torch.ones(1, 2)).dtype,
        torch.nn.Module.__call__.__qualname__,
        torch.nn.Module.__getattr__.__qualname__,
        tuple(e3nn.get_optimization_defaults().items()),
        os.environ.get(FLAG),
    )


@pytest.fixture
def watched():
    """Everything that another thread sees while the test runs."""
    seen, stop = set(), threading.Event()

    def watch():
        while not stop.is_set():
            try:
                seen.add(state_of_process())
            except Exception as error:
                seen.add(repr(error))
            time.sleep(0.0005)

    before = state_of_process()
    thread = threading.Thread(target=watch)
    thread.start()
    yield seen
    stop.set()
    thread.join()
    assert seen == {before}
    assert state_of_process() == before


def in_threads(function, number=3):
    results, errors = [], []

    def run():
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return results


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("to_run", [False, True])
def test_networks_are_built_in_threads(to_run):
    expected = build_native(SMALL, [8, 1], to_run=to_run).state_dict()
    for native in in_threads(lambda: build_native(SMALL, [8, 1], to_run=to_run)):
        found = native.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        assert {value.dtype for value in found.values() if value.is_floating_point()} == {torch.float64}


@pytest.mark.usefixtures("watched")
def test_files_are_loaded_in_threads(tmp_path):
    model = tiny_model(max_ell=1)
    export_native(model, tmp_path / "m.model")
    for loaded in in_threads(lambda: load_mace(tmp_path / "m.model")):
        assert torch.equal(loaded.out_bias, model.out_bias)


@pytest.mark.usefixtures("watched")
def test_checkpoints_are_opened_in_threads(tmp_path):
    """DeePMD-kit scripts them, which torch cannot do twice at once."""
    save_checkpoint(tiny_model(max_ell=1), tmp_path / "m.pt")
    for evaluator in in_threads(lambda: DeepPot(str(tmp_path / "m.pt"))):
        assert evaluator.get_type_map() == ["O", "H"]


def test_weights_do_not_depend_on_the_default_dtype():
    expected = build_native(SMALL, [8, 1], to_run=False).state_dict()
    for dtype in (torch.float64, torch.bfloat16):
        with default_dtype(dtype):
            found = build_native(SMALL, [8, 1], to_run=False).state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_seeded_weights_are_those_after_manual_seed():
    before = torch.random.get_rng_state()
    with construction(7, to_run=False):
        drawn = torch.randn(5), torch.nn.Linear(3, 2).weight
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(7)
    with construction(None, to_run=False):
        again = torch.randn(5), torch.nn.Linear(3, 2).weight
    for one, other in zip(drawn, again, strict=True):
        assert one.dtype == torch.float64
        assert torch.equal(one, other)


@pytest.mark.parametrize("irrep", ["0e", "1o"])
def test_native_constructors_of_others_do_what_they_did(irrep):
    """The constructor of native's contraction differs in how it traces only: same weights, same code."""
    from e3nn import o3
    from mace.modules import symmetric_contraction

    changed = symmetric_contraction.Contraction.__init__
    original = FunctionType(
        changed.__code__, vars(symmetric_contraction), "__init__", changed.__defaults__, changed.__closure__
    )
    options = {
        "irreps_in": o3.Irreps("2x0e+2x1o"), "irrep_out": o3.Irreps(irrep), "correlation": 3, "num_elements": 2
    }  # fmt: skip
    parts = []
    for constructor in (original, changed):
        torch.manual_seed(0)
        part = symmetric_contraction.Contraction.__new__(symmetric_contraction.Contraction)
        constructor(part, **options)
        parts.append(part)
    expected, found = parts
    assert found.weights_max.dtype == torch.get_default_dtype()
    for (name, value), other in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert str(found.graph_opt_main.graph) == str(expected.graph_opt_main.graph)
    x, elements = torch.randn(4, 2, 4), torch.eye(2)[[0, 1, 1, 0]]
    assert torch.equal(found(x, elements), expected(x, elements))
    assert torch.equal(torch.jit.script(found)(x, elements), expected(x, elements))


def test_recorded_functions_are_traced_ones():
    def function(x, y):
        return torch.einsum("ij,jk->ik", x, y)

    assert _recorded(function).code == torch.fx.symbolic_trace(function).code


def test_importing_mace_never_sets_the_variable():
    """Python tells an audit hook of every change of the environment."""
    code = (
        "import os, sys; names = []; os.environ.pop('" + FLAG + "', None); "
        "sys.addaudithook(lambda event, args: names.append(args[0]) if event == 'os.putenv' else None); "
        "import deepmd_gnn.mace_network, mace; "
        "assert mace.__version__ and mace.modules; "
        "assert b'" + FLAG + "' not in names, names"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_one_thread_at_a_time_compiles():
    original = TilingSelect.select_tiling
    entered = threading.Event()

    def enter():
        with sound_vectorisation():
            entered.set()

    with sound_vectorisation():
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.1)
    thread.join(10)
    assert entered.is_set()
    assert TilingSelect.select_tiling is original


def test_couplings_are_shared_by_value_only():
    """They are computed once for all models; what one of them is made to hold is not seen by the next."""
    first = build_native(SMALL, [1, 8]).products[0].symmetric_contractions.contractions[0]
    expected = first.U_matrix_2.clone()
    first.U_matrix_2.zero_()
    second = build_native(SMALL, [1, 8]).products[0].symmetric_contractions.contractions[0]
    assert expected.any()
    assert torch.equal(second.U_matrix_2, expected)


def test_moments_of_activations_are_computed_once_and_the_same():
    """As e3nn finds them: the root mean square of the activation over a million normal numbers."""
    numbers = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    calls = []

    def square(x):
        calls.append(x)
        return x**2

    first, second = (e3nn.math.normalize2mom(square) for _ in range(2))
    assert first.cst == second.cst == pytest.approx(3**-0.5, rel=1e-2)
    assert len(calls) == 1
    for activation in (torch.nn.functional.silu, torch.tanh, torch.nn.SiLU()):
        expected = activation(numbers).square().mean() ** -0.5
        found = [e3nn.math.normalize2mom(activation).cst for _ in range(2)]
        assert found == pytest.approx([expected.item()] * 2, rel=1e-14)
