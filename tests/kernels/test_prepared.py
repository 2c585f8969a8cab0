"""Parts of a network that kernels prepare: readouts, elements; how few operations are left."""

import pytest
import torch
from helpers import assert_close, random_frame, tiny_model
from tolerances import NATIVE
from torch.utils._python_dispatch import TorchDispatchMode

from deepmd_gnn.kernels.prepared import PreparedElements, PreparedParts, PreparedReadout
from deepmd_gnn.kernels.triton.mixing import TritonLinear
from deepmd_gnn.kernels.triton.modules import TritonKernels
from deepmd_gnn.kernels.triton.splines import SplineTable
from deepmd_gnn.nn.inputs import Elements
from deepmd_gnn.nn.readouts import Readout


@pytest.mark.parametrize("sizes", [[(4, 1)], [(4, 3), (3, 1)]], ids=["linear", "hidden layer"])
def test_readouts(sizes):
    torch.manual_seed(0)
    readout = Readout([torch.randn(size, dtype=torch.float64) for size in sizes], "tanh", 1.5)
    features = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    made = PreparedReadout(readout, TritonLinear)
    assert set(made.state_dict()) >= set(readout.state_dict())
    results = []
    for module in (readout, made):
        energy = module(features)
        results.append((energy, *torch.autograd.grad(energy.square().sum(), features)))
    for expected, found in zip(*results, strict=True):
        assert_close(found.detach().numpy(), expected.detach().numpy(), NATIVE["float64"])
    assert torch.equal(made.last_inputs(features), readout.last_inputs(features))


def test_elements():
    types = torch.tensor([2, 0, 0])
    expected = Elements(3, torch.float32)(types)
    found = PreparedElements(3, torch.float32)(types)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_what_is_read_stays():
    """Radial features are made of lengths, and somebody may read these alone."""
    network = tiny_model().energy_model
    parts = PreparedParts(network, TritonLinear)
    for radial, lengths in ((False, False), (False, True), (True, False)):
        names = [name for _, name, _ in parts.swaps(network, reads_radial=radial, reads_lengths=lengths)]
        assert ("radial_embedding" in names, "edge_vectors" in names) == (
            not radial,
            not (radial or lengths),
        )


class _Counted(TorchDispatchMode):
    """Names of the operations that compute something; an operator of ours is one."""

    VIEWS = ("view", "detach", "alias", "slice", "select", "squeeze", "empty", "expand", "split", "transpose")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        namespace, name = func._schema.name.split("::")
        if namespace != "aten" or not any(view in name for view in self.VIEWS) or "backward" in name:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_few_operations():
    """Each operation of an evaluation is a launch or several; a new one needs a reason."""
    model = tiny_model(max_L=1, precision="float32")
    channels = model.energy_model.channels
    tables = [
        SplineTable(torch.rand(1, 12, len(each.conv_tp.paths) * channels, dtype=torch.float64), 0.0, 0.0)
        for each in model.energy_model.interactions
    ]
    model.launch_kernels(TritonKernels(model.energy_model, tables))
    coord, atype, cell = random_frame(natoms=3)
    tensors = (torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None]))
    graph = model.graphs.of_frames(*tensors)
    with _Counted() as counted:
        model.derivatives(graph, tensors[1], 3, 3)
    ours = [name for name in counted.names if name.startswith("triton")]
    assert ours.count("triton_forces") == 1
    assert len(counted.names) - len(ours) <= 26
