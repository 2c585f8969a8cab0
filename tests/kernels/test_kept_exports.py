"""A traced graph whose program is kept is not exported; the program that a note leads to is the graph's own, with its own weights."""

import pytest
import torch
import torch._inductor
from helpers import tiny_model
from lammps_cases import freeze as freeze_model
from torch.fx.experimental.proxy_tensor import make_fx

from deepmd_gnn.kernels.cpu import cache, kept, kept_exports
from deepmd_gnn.kernels.cpu.kept_exports import exports_once
from deepmd_gnn.kernels.cpu.kept_programs import programs_once

ROWS = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)
SETTINGS = {"assert_indirect_indexing": False}


class Plain(torch.nn.Module):
    """A map and a single number."""

    def __init__(self, seed, factor=2.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(1.5 * seed, dtype=torch.float64))
        self.factor = factor

    def forward(self, rows):
        return torch.tanh(rows @ self.weight) * self.scale * self.factor


@pytest.fixture
def notes(monkeypatch, tmp_path):
    """Folder of the notes."""
    for module in (cache, kept):
        monkeypatch.setattr(module, "cache_dir", lambda: str(tmp_path))
    return tmp_path / "deepmd_gnn" / "exports"


@pytest.fixture
def exported(monkeypatch):
    """Graphs that were exported."""
    found, original = [], torch.export.export

    def spy(mod, *arguments, **options):
        found.append(mod)
        return original(mod, *arguments, **options)

    monkeypatch.setattr(torch.export, "export", spy)
    return found


def freeze(model, path, settings=SETTINGS, taken=None):
    """As the host does; torch changes the settings."""
    gm = make_fx(lambda rows: model(rows), tracing_mode="symbolic", _allow_non_fake_inputs=True)(ROWS)
    with programs_once(taken) as programs, exports_once(programs):
        sizes = ({0: torch.export.Dim("rows", min=2)},)
        program = torch.export.export(gm, (ROWS,), dynamic_shapes=sizes, strict=False)
        assert list(program.graph_module.graph.nodes) is not None
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)


def result(path):
    with torch.no_grad():
        return torch._inductor.aoti_load_package(str(path))(ROWS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_known_graphs_are_not_exported(notes, exported, tmp_path):
    for seed, number in ((1, 1), (2, 1)):
        model = Plain(seed)
        freeze(model, tmp_path / f"{seed}.pt2")
        torch.testing.assert_close(result(tmp_path / f"{seed}.pt2"), model(ROWS).detach())
        assert len(exported) == number

    # Other settings than those of the kept program: said, and the note is among what is to be removed.
    taken = []
    with pytest.raises(RuntimeError, match="compiled with the settings"):
        freeze(Plain(3), tmp_path / "3.pt2", {"assert_indirect_indexing": True}, taken)
    assert [path.parent.name for path in taken] == ["exports", "programs"]

    # A note that leads to nothing, and one that is damaged.
    program = taken[1]
    program.rename(program.with_name("elsewhere"))
    for _ in range(2):
        model = Plain(3)
        freeze(model, tmp_path / "3.pt2")
        torch.testing.assert_close(result(tmp_path / "3.pt2"), model(ROWS).detach())
        taken[0].write_text("{")
    assert len(exported) == 3


class Looked(Exception):
    """Where a note of the first program would be."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_models_of_one_architecture_have_one_note(monkeypatch, tmp_path):
    """Another cutoff, other weights, statistics and energies of atoms: data of the same program."""

    def look(*arguments):
        found = original(*arguments)
        raise Looked(found[0])

    original = kept_exports._compared
    monkeypatch.setattr(kept_exports, "_compared", look)

    def note(**options):
        with pytest.raises(Looked) as looked:
            freeze_model(tiny_model(**options), tmp_path / "m.pt2")
        return looked.value.args[0]

    first = note(seed=1)
    others = {"atomic_energies": {"H": -3.0, "O": -7.0}, "avg_num_neighbors": 5.5, "scale": 1.7}
    assert note(seed=2, r_max=3.7, **others) == first
    assert note(seed=1, num_channels=3) != first


@pytest.mark.filterwarnings("ignore")
def test_other_graphs_are_exported(notes, exported, monkeypatch, tmp_path):
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda *arguments, **options: "")
    for model in (Plain(1), Plain(1, factor=3.0), Plain(2)):
        freeze(model, tmp_path / "m.pt2")
    # Nothing was compiled, so nothing is noted.
    assert len(exported) == 3
    assert not notes.exists()


def test_torch_is_left_as_it_was():
    before = torch.export.export, torch._inductor.aoti_compile_and_package
    with pytest.raises(ZeroDivisionError), programs_once() as programs, exports_once(programs):
        raise ZeroDivisionError
    assert (torch.export.export, torch._inductor.aoti_compile_and_package) == before
