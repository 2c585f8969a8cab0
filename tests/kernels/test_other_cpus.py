"""Generated kernels on processors that this machine is not: in an emulator, against the torch code."""

import shlex
import signal
import subprocess

import numpy as np
import pytest
import torch
from emulated import PROCESSORS, Emulated
from helpers import assert_close, random_frame, tiny_model
from tolerances import NATIVE

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.edge_operators import sum_groups
from deepmd_gnn.kernels import operators
from deepmd_gnn.kernels.cpu import generated
from deepmd_gnn.kernels.cpu.compiler import cpu_guard
from deepmd_gnn.kernels.cpu.targets import X86

# Adds vectors as wide as those of a machine, of numbers that the compiler does not know.
VECTORS = """
#include <cstdio>
typedef float V __attribute__((vector_size({bytes})));
int main(int count, char** words) {{
  V v{{}};
  for (int i = 0; i < count; ++i) v += float(words[i][0]);
  volatile V sum = v * v + v;
  std::puts(sum[1] > 0 ? "computed" : "wrong");
}}
"""
# Channels that do not fill the last vector, both kinds of maps between them.
OPTIONS = {"num_channels": 6, "max_ell": 2}


def made_for(machine, monkeypatch, precision):
    """A model, and its kernels for a machine."""
    monkeypatch.setattr(generated, "target_machine", lambda: machine)
    model = tiny_model(precision=precision, **OPTIONS)
    return model, generated.Kernels(model.energy_model)


def water_graph(model):
    """A periodic frame with its edges grouped by receiver."""
    coord, atype, box = (torch.tensor(part)[None] for part in random_frame(natoms=8, box_length=5.0))
    graph = model.graphs.of_frames(coord, atype, box.reshape(1, 9))
    counts = torch.bincount(graph.edge_index[1], minlength=len(graph.node_types))
    begin = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    order = torch.argsort(graph.edge_index[1], stable=True)
    vectors = graph.edge_vec.detach().requires_grad_(True)
    return AtomGraph(*graph[:3], vectors, graph.edge_atoms, "kernels", order=order, begin=begin)


def energy_and_gradient(model, graph):
    energy, features = model.energy_model(graph, None)
    (gradient,) = torch.autograd.grad(energy.sum(), graph.edge_vec)
    return energy.detach().numpy(), gradient.numpy(), features[0].detach().numpy()


@pytest.mark.parametrize(
    ("name", "precision"),
    [("aarch64", "float32"), ("aarch64", "float64"), ("Nehalem", "float32"), ("Haswell", "float64")],
)
def test_kernels(name, precision, monkeypatch, tmp_path):
    """Two layers, values and derivatives: convolutions, contractions, linear maps, and sums over groups of rows."""
    PROCESSORS[name].skip_without()
    model, kernels = made_for(PROCESSORS[name].machine, monkeypatch, precision)
    graph = water_graph(model)
    expected = energy_and_gradient(tiny_model(precision="float64", **OPTIONS), graph)
    emulated = Emulated(kernels.library, PROCESSORS[name], tmp_path)
    with operators.use(emulated), kernels.installed(model.energy_model):
        found = energy_and_gradient(model, graph)
    for what, ours, reference in zip(("energy", "gradient", "features"), found, expected, strict=True):
        assert np.abs(reference).max() > 0
        assert_close(ours, reference, NATIVE[precision], what)

    values = torch.rand(7, 5, dtype=getattr(torch, precision))
    groups = torch.tensor([0, 3, 3, 5, 6, 0, 2, 4, 1])
    sums = torch.empty(3, 5, dtype=values.dtype)
    emulated.call("sum_groups", values, 5, 1, groups, 3, 5, values.itemsize, sums)
    assert_close(sums.numpy(), sum_groups(values, groups, 3).numpy(), NATIVE[precision], "sums")


@pytest.mark.parametrize(
    ("processor", "machine", "status"),
    [
        ("Haswell", "x86-64-v4", 1),
        ("Haswell", "x86-64-v3", 0),
        ("Nehalem", "x86-64-v3", 1),
        ("Nehalem", "generic", 0),
    ],
)
def test_guard(processor, machine, status, tmp_path):
    """What is linked into every file: a message and an exit status instead of an illegal instruction."""
    PROCESSORS[processor].skip_without()
    made = X86[machine]
    (tmp_path / "vectors.cpp").write_text(VECTORS.format(bytes=made.vector_bytes))
    command = ["g++", "-O2", "-static", *made.flags, "vectors.cpp", "-o"]
    subprocess.run([*command, "unguarded"], cwd=tmp_path, check=True)
    subprocess.run(
        f"{shlex.join([*command, 'guarded'])} -l{cpu_guard(made)}", cwd=tmp_path, check=True, shell=True
    )

    def run(program):
        emulator = PROCESSORS[processor].emulator
        return subprocess.run(
            [*emulator, tmp_path / program, "4"], capture_output=True, text=True, check=False
        )

    assert run("unguarded").returncode == (-signal.SIGILL if status else 0)
    done = run("guarded")
    assert done.returncode == status
    assert ("computed" in done.stdout) != bool(status)
    assert (f"CPUs with {', '.join(made.features)}, which this one lacks" in done.stderr) == bool(status)
