"""The training step that ``enable_compile`` compiles: loss and gradients of the eager step, vectorised, no atomic additions."""

import numpy as np
import pytest
import torch
from architectures import architectures
from deepmd.pt_expt.train import training
from helpers import assert_close, random_frame, tiny_model
from nequip_models import tiny_nequip
from tolerances import NATIVE
from torch._inductor import decomposition
from training_data import loss_of

from deepmd_gnn.host.compiled_training import OPTIONS as DEFAULTS
from deepmd_gnn.host.compiled_training import _look_into_picks

OPTIONS = architectures("training")
NEQUIP = (
    {"l_max": 2},
    {"nonlinearity_type": "norm", "parity": False, "use_sc": False},
)


def test_a_freeze_before_does_not_hide_the_operators(monkeypatch):
    """TorchInductor keeps a copy of its table from the first compilation of a process, which may be that of a file."""
    operator = torch.ops.deepmd_gnn.pick.default
    monkeypatch.delitem(decomposition.decompositions, operator, raising=False)
    decomposition.fast_random_decomps.cache_clear()
    assert operator not in decomposition.select_decomp_table()
    _look_into_picks()
    assert operator in decomposition.select_decomp_table()


def compiled(model, options=None):
    buffers = training._detect_task_buffers(model, [model])
    return training._CompiledModel(
        model,
        training._get_model_structure_key(model),
        task_buf_order=tuple(buffers),
        task_buffers=buffers,
        compile_opts=options,
    ).train()


def frames(number, natoms, seed):
    """Frames of one composition, a lone atom among those with few atoms."""
    made = [random_frame(natoms=natoms, box_length=5.5, seed=seed + k) for k in range(number)]
    coord, atype, cell = (np.stack(x) for x in zip(*made, strict=True))
    return (
        torch.tensor(coord),
        torch.tensor(np.repeat(atype[:1], number, 0)),
        torch.tensor(cell).reshape(number, 9),
    )


def gradients(evaluate, model, batch):
    model.zero_grad()
    out = evaluate(*batch)
    loss = loss_of(out["energy"], out["force"], out["virial"])
    loss.backward()
    return {"loss": loss.detach()} | {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "precision"), [(option, "float64") for option in OPTIONS] + [("default", "float32")]
)
def test_graph_equals_the_eager_step(option, precision, monkeypatch):
    """The graph that is handed to the compiler, for batches of several sizes. Compiling takes a minute: see test_exportable_workflow.py."""
    monkeypatch.setattr(torch, "compile", lambda graph, **kwargs: graph)
    model = tiny_model(**OPTIONS[option], precision=precision, atomic_energies=[0.0, 0.0]).train()
    assert_equal_steps(model, precision)


@pytest.mark.slow
@pytest.mark.parametrize("options", NEQUIP, ids=str)
def test_graph_equals_the_eager_step_of_nequip(options, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **kwargs: graph)
    assert_equal_steps(tiny_nequip(**options).train(), "float64")


def assert_equal_steps(model, precision):
    step = compiled(model)
    for batch in (frames(2, 9, 1), frames(3, 12, 4), frames(1, 1, 9), frames(1, 40, 11)):
        expected, actual = gradients(model, model, batch), gradients(step, model, batch)
        assert actual.keys() == expected.keys()
        for name, gradient in expected.items():
            assert_close(actual[name].numpy(), gradient.numpy(), 10 * NATIVE[precision], name)


@pytest.mark.parametrize("given", [{}, {"cpp.simdlen": 0, "max_fusion_size": 1}])
@pytest.mark.slow
def test_options_of_the_user_come_last(given, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        torch, "compile", lambda graph, **kwargs: seen.update(kwargs["options"], graph=graph) or graph
    )
    model = tiny_model(max_L=0, max_ell=1, correlation=1).train()
    step = compiled(model, given)
    step(*frames(1, 5, 0))
    assert {key: seen[key] for key in DEFAULTS | given} == DEFAULTS | given
    # What the compiler would turn into atomic additions.
    names = {str(node.target) for node in seen["graph"].graph.nodes if node.op == "call_function"}
    assert not [name for name in names if "index_add" in name or "index_put" in name or "scatter" in name]
    assert any("neighbor_sums_backward" in name for name in names)
