"""Programs of an earlier freeze are taken if, and only if, nothing but weights differs; the weights in them are the new ones."""

import copy

import pytest
import torch
import torch._inductor
from torch._inductor.codecache import AotCodeCompiler
from torch._inductor.graph import GraphLowering

from deepmd_gnn.kernels.cpu import cache, kept, kept_programs
from deepmd_gnn.kernels.cpu.kept_programs import programs_once


class Plain(torch.nn.Module):
    """A map, a list short enough to be written into code, and single numbers."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64))
        self.few = torch.nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(1.5 * seed, dtype=torch.float64))
        self.register_buffer("neighbors", torch.tensor([[11.0 - seed]], dtype=torch.float64))
        self.factor = 2.0

    def forward(self, rows):
        sums = (torch.tanh(rows @ self.weight) + self.few) / self.neighbors
        return sums * self.scale * self.factor + self.weight.sum(0)


ROWS = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)


def exported(model):
    return torch.export.export(model, (ROWS,), dynamic_shapes=({0: torch.export.Dim("rows", min=2)},))


def key(model):
    gm = exported(model).module()
    kept_programs.put_numbers_together(gm)
    return kept_programs.key_of(gm, (ROWS,), None, dict(kept_programs.constants_of(gm)))


@pytest.fixture
def programs(monkeypatch, tmp_path):
    """Folder of what is kept."""
    for module in (cache, kept):
        monkeypatch.setattr(module, "cache_dir", lambda: str(tmp_path))
    return tmp_path / "deepmd_gnn" / "programs"


@pytest.fixture
def compiled(monkeypatch):
    """Programs that were compiled."""
    found, original = [], AotCodeCompiler.compile

    def spy(graph, *arguments, **options):
        found.append(graph)
        return original(graph, *arguments, **options)

    monkeypatch.setattr(AotCodeCompiler, "compile", spy)
    return found


def result(model, path):
    with programs_once():
        torch._inductor.aoti_compile_and_package(exported(model), package_path=str(path))
    with torch.no_grad():
        return torch._inductor.aoti_load_package(str(path))(ROWS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_are_exchanged_in_a_kept_program(programs, compiled, tmp_path):
    for seed, number in ((1, 1), (2, 1)):
        model = Plain(seed)
        torch.testing.assert_close(result(model, tmp_path / f"{seed}.pt2"), model(ROWS).detach())
        assert len(compiled) == number

    # Without a model's weights in it, and made anew when it is damaged.
    (path,) = (path for path in programs.iterdir() if path.suffix != ".sha256")
    path.write_bytes(path.read_bytes()[:-100])
    model = Plain(3)
    torch.testing.assert_close(result(model, tmp_path / "3.pt2"), model(ROWS).detach())
    assert len(compiled) == 2


def changed(**parts):
    model = Plain(1)
    for name, value in parts.items():
        if isinstance(value, torch.Tensor):
            value = torch.nn.Parameter(value) if name != "scale" else value
        setattr(model, name, value)
    return model


F64 = {"dtype": torch.float64}
DIFFERENT = {
    "number in the graph": lambda: changed(factor=3.0),
    "zeros, which are folded": lambda: changed(few=torch.zeros(4, **F64)),
    "ones, which are folded": lambda: changed(few=torch.ones(4, **F64)),
    "one tensor in two places": lambda: changed(few=Plain(1).weight.detach()[0]),
    "precision": lambda: changed(few=Plain(1).few.detach().float()),
    "order in memory": lambda: changed(weight=Plain(1).weight.detach().t().contiguous().t()),
}


def test_weights_alone_do_not_make_another_program():
    assert key(Plain(1)) == key(Plain(2)) == key(copy.deepcopy(Plain(3)))


@pytest.mark.parametrize("difference", DIFFERENT)
def test_everything_else_makes_another_program(difference):
    assert key(DIFFERENT[difference]()) != key(Plain(1))


def test_tensors_that_share_memory_make_another_program():
    apart, shared = Plain(1), Plain(1)
    apart.other, shared.other = torch.nn.Parameter(torch.randn(3, 4, **F64)), shared.weight
    for model in (apart, shared):
        model.forward = lambda rows, model=model: (rows @ model.weight) * (rows @ model.other)
    assert key(apart) != key(shared)


def test_settings_make_another_program():
    before = key(Plain(1))
    with torch._inductor.config.patch({"cpp.threads": 7}):
        assert key(Plain(1)) != before


def test_torch_is_left_as_it_was():
    before = torch._inductor.aot_compile, GraphLowering.can_inline_constant, AotCodeCompiler.compile
    with pytest.raises(ZeroDivisionError), programs_once():
        raise ZeroDivisionError
    assert (torch._inductor.aot_compile, GraphLowering.can_inline_constant, AotCodeCompiler.compile) == before
