"""What frozen files are made by: traced programs, the exchange between ranks, freezes, and checkpoints on a GPU."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import self_send
from toy_network import ToyModel

from deepmd_gnn.deepmd_ops import Exchange, check_lists, refuse_started_mpi
from deepmd_gnn.export import traced_edge_lower, traced_program
from deepmd_gnn.graph.compilation import compilation
from deepmd_gnn.host import device_inference
from deepmd_gnn.host.freeze import freeze

SYMBOLIC = {"tracing_mode": "symbolic", "_allow_non_fake_inputs": True}


@pytest.fixture(scope="module")
def model():
    return ToyModel(["O", "H"], avg_num_neighbors=8.0, scale=1.3).eval()


# --- programs ---------------------------------------------------------------------------------------------------


def test_programs_are_for_all_sizes():
    traced = traced_program(
        lambda x, y: {"sum": (x * y).sum(dim=0)}, (torch.ones(4, 3), torch.ones(3)), SYMBOLIC
    )
    x, y = torch.rand(7, 2), torch.rand(2)
    assert torch.equal(traced(x, y)["sum"], (x * y).sum(dim=0))


@pytest.mark.parametrize("ranks", [1, 2])
def test_programs_of_the_edge_list_have_the_hosts_names(ranks, model):
    """Ten inputs and `fparam` go to the model, two are not used; behind them are the communication tensors, by name."""
    seen = {}

    def lower(*inputs, fparam, do_atomic_virial, comm_dict):
        seen.update(number=len(inputs), comm=comm_dict, fparam=fparam)
        energy = inputs[4].sum(dim=1, keepdim=True)
        more = 0.0 if comm_dict is None else comm_dict["nghost"] - comm_dict["nlocal"]
        inner = {"energy": energy + more, "energy_redu": energy.sum(dim=0, keepdim=True)}
        inner |= {"energy_derv_r": inputs[4].unsqueeze(1), "energy_derv_c_redu": torch.ones(1, 1, 9)}
        return {**inner, "energy_derv_c": torch.ones(4, 1, 9)} if do_atomic_virial else inner

    samples = [torch.ones(4, 3) for _ in range(10)] + [None] * 3
    samples += [torch.tensor(float(k)) for k in range(8)] if ranks > 1 else []
    traced = traced_edge_lower(lower, model.energy_model, tuple(samples), True, SYMBOLIC)
    assert seen["number"] == 10
    assert seen["fparam"] is None
    assert (seen["comm"] is None) == (ranks == 1)
    inputs = [value if value is None else value + 1 for value in samples]
    found = traced(*inputs)
    assert found["atom_energy"].tolist() == [[7.0 if ranks > 1 else 6.0]] * 4
    assert found["energy"].tolist() == [[24.0]]
    assert torch.equal(found["force"], inputs[4])
    assert found["virial"].shape == (1, 9)
    assert found["atom_virial"].shape == (4, 9)


# --- exchange ---------------------------------------------------------------------------------------------------


def test_ghosts_get_the_features_of_their_owners():
    owner = torch.tensor([[0, 1, 2, 2, 0, 0]])
    kept, comm = self_send(3, owner)
    features = torch.rand(4, 5, dtype=torch.float64)  # the guard and three owned atoms
    found = Exchange()(features, 7, comm)
    assert torch.equal(found, features[torch.cat([torch.tensor([0]), owner[0] + 1])])
    assert len(kept) == 3
    assert Exchange()(features, 4, None) is features


def test_lists_that_do_not_bring_every_ghost():
    comm = {"recv_num": torch.tensor([2, 1])}
    check_lists(comm, 3)
    with pytest.raises(
        ValueError, match=r"bring 3 ghosts, but this rank has 4\. In LAMMPS use comm_style brick"
    ):
        check_lists(comm, 4)


AFTER_MPI = """
import ctypes
import deepmd.pt
from deepmd_gnn.deepmd_ops import refuse_started_mpi
ctypes.CDLL("libmpi.so.12").MPI_Init(None, None)
try:
    refuse_started_mpi()
finally:
    ctypes.CDLL("libmpi.so.12").MPI_Finalize()
"""


@pytest.mark.slow
@pytest.mark.lammps
@pytest.mark.usefixtures("preloaded")
def test_a_process_with_mpi_is_refused_and_not_ended():
    refuse_started_mpi()
    done = subprocess.run(
        [sys.executable, "-c", AFTER_MPI], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "RuntimeError: mace model: this process has started MPI" in done.stderr


# --- freezes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def host_freeze(monkeypatch):
    """What the host's two commands are asked for; each writes, and may die then."""
    calls, dies = [], []

    def replace(backend):
        def write(model, output, head):
            calls.append((backend, model, head, compilation().evaluation))
            Path(output).write_text(backend)
            if dies:
                raise RuntimeError("no space left")

        monkeypatch.setattr(f"deepmd.{backend}.entrypoints.main.freeze", write)

    for backend in ("pt", "pt_expt"):
        replace(backend)
    return calls, dies


@pytest.mark.parametrize(("suffix", "backend"), [(".pth", "pt"), (".pt2", "pt_expt"), (".pte", "pt_expt")])
def test_the_suffix_chooses_the_backend(suffix, backend, host_freeze, tmp_path):
    calls, dies = host_freeze
    output = tmp_path / f"m{suffix}"
    freeze(Path("model.pt"), output, "water", "tables")
    assert output.read_text() == backend
    assert calls == [(backend, "model.pt", "water", "tables")]
    output.write_text("the model of last week")
    dies.append(True)
    with pytest.raises(RuntimeError, match="no space left"):
        freeze(Path("model.pt"), output)
    assert output.read_text() == "the model of last week"
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_unknown_evaluations_are_refused(host_freeze, tmp_path):
    with pytest.raises(ValueError, match="evaluation is 'fast'; it must be one of kernels, tables, networks"):
        freeze(Path("model.pt"), tmp_path / "m.pt2", evaluation="fast")
    assert host_freeze[0] == []


# --- checkpoints on a GPU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "section", "on_gpu", "replaced"),
    [
        ("m.pt", {"type": "toy"}, True, True),
        ("m.pt", {"type": "toy"}, False, False),
        ("m.pth", {"type": "toy"}, True, False),
        ("m.pt", {"type": "toy", "hessian_mode": True}, True, False),
        ("m.pt", {"type": "standard"}, True, False),
        ("m.pt", None, True, False),
    ],
)
def test_which_models_launch_kernels(file, section, on_gpu, replaced, model, monkeypatch):
    def opens(self, model_file, head=None):
        self.dp = SimpleNamespace(model={"Default": model})
        self.head = head
        if section is not None:
            self.input_param = section

    monkeypatch.setattr(device_inference, "_on_cuda", lambda module: on_gpu)
    monkeypatch.setattr(device_inference, "_with_kernels", lambda module, parameters: (module, parameters))
    evaluation = SimpleNamespace()
    device_inference.with_kernels(opens)(evaluation, file, head="water")
    assert evaluation.head == "water"
    assert evaluation.dp.model["Default"] == ((model, section) if replaced else model)


def test_models_without_kernels_stay(model, monkeypatch, caplog):
    """A network that the kernels do not know: the model that was opened goes on, and the log says why."""
    monkeypatch.setattr("deepmd_gnn.kernels.triton.build.triton_kernels", lambda network: "it is a toy")
    section = json.loads(model.model_def_script)
    assert device_inference._with_kernels(model, section) is model
    assert "no generated kernels, the torch code runs instead, which is slower: it is a toy" in caplog.text
