"""Repeated training steps of batches of one size as two CUDA graphs, energies with forces and gradients of the weights.

A step launches some 800 small kernels, and torch needs longer to launch them than a GPU to run them. As in
:mod:`~deepmd_gnn.kernels.triton.replay` the arrays of edges have room for more. What a captured step gives is compared with an
ordinary one before it is used.
"""

import logging
import weakref
from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels.triton.captures import Tensors, aside, new_pool, on_current_device, record
from deepmd_gnn.kernels.triton.replay import (
    BEFORE_CAPTURE,
    CHEAP_NODES,
    KEPT,
    Result,
    filled,
    with_room,
)
from deepmd_gnn.kernels.triton.training_check import LARGEST

log = logging.getLogger("deepmd.deepmd_gnn")
# Room for more edges than the largest batch of a size has had, and how often a size may outgrow it.
ROOM, MOST_CAPTURES = 1.05, 6
# Parts of the GPU's memory: what a model's captured steps may hold, and all that is held together with the most that an evaluation has
# needed so far, because batches of other sizes are evaluated as they are.
MOST_HELD, MOST_MEMORY = 0.25, 0.9


def memory() -> tuple[int, int, int]:
    """Bytes on the GPU: what torch needs now, without those of nobody, the most it has needed, and all there are."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated(), total


class _Ticket:
    """An evaluation, as long as somebody may ask for its gradients."""

    asked = False


class _Evaluated(torch.nn.Module):
    """A model as a function of a batch, for ``torch.func.functional_call``."""

    def __init__(self, model: Any, nloc: int, nall: int) -> None:
        super().__init__()
        self.model, self.nloc, self.nall = model, nloc, nall

    def forward(self, graph: AtomGraph, atype: torch.Tensor) -> Result:
        """Evaluate, types of shape (nf, nloc)."""
        return self.model.derivatives(graph, atype, self.nloc, self.nall)  # type: ignore[no-any-return]


class CapturedStep:
    """A step of one size of batch.

    Parameters
    ----------
    model : Evaluation
        In training mode.
    graph : AtomGraph
        A batch.
    atype : torch.Tensor
        Its types, shape (nf, nloc).
    nloc, nall : int
        Atoms and output rows per frame.
    nedge : int
        Room for edges.

    Raises
    ------
    RuntimeError
        If the step cannot be captured, or gives other numbers.
    """

    def __init__(
        self, model: Any, graph: AtomGraph, atype: torch.Tensor, nloc: int, nall: int, nedge: int
    ) -> None:
        network = _Evaluated(model, nloc, nall)
        named = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self.trained = list(named.values())
        # What the graphs read besides their own memory must stay where it is.
        tensors = [*model.parameters(), *model.buffers()]
        self.read = [tensors, [x.detach() for x in tensors], model.__dict__.get("_training_kernels")]
        self.versions, self.ticket = 0, weakref.ref(_Ticket())
        self.inputs, self.atype = with_room(graph, nedge), atype.clone()
        self.incoming: list[torch.Tensor] = []
        self._live: Result | None = None
        self._leaves: dict[str, torch.Tensor] = {}

        def forward(batch: AtomGraph = self.inputs, types: torch.Tensor = self.atype) -> Tensors:
            # The weights' memory as tensors of this evaluation: of a weight, autograd remembers in which stream it was used, and
            # would bring that one into the capture.
            self._live = None
            self._leaves = {name: weight.detach().requires_grad_(True) for name, weight in named.items()}
            self._live = torch.func.functional_call(network, self._leaves, (batch, types))
            return [value.detach() for value in self._live]

        def backward() -> Tensors:
            assert self._live is not None
            leaves = list(self._leaves.values())
            return torch.autograd.grad(self._live, leaves, self.incoming, allow_unused=True)

        def ordinary() -> Tensors:
            results = forward(graph, atype)
            self.incoming = [torch.randn_like(value) for value in results if value is not None]
            return [*results, *backward()]

        exact = aside(ordinary)
        aside(lambda: [*forward(), *backward()])
        pool = new_pool()
        self._forward, self.results = record(forward, pool)
        self._backward, self.gradients = record(backward, pool)
        found = [*self.results, *self.gradients]
        for value in found:  # so that a graph that does nothing is noticed
            if value is not None:
                value.fill_(float("nan"))
        self._forward.replay()
        self._backward.replay()
        _compare(found, exact, LARGEST[model.energy_model.dtype])

    def holds(self, graph: AtomGraph) -> bool:
        """Whether a batch of this size fits."""
        return bool(self.inputs.edge_vec.shape[0] >= graph.edge_vec.shape[0])

    def waiting(self) -> bool:
        """Whether nobody has asked yet for the gradients of the last step, which another one would overwrite."""
        ticket = self.ticket()
        return ticket is not None and not ticket.asked

    def fill(self, graph: AtomGraph, atype: torch.Tensor) -> None:
        """Take over a batch, types of shape (nf, nloc)."""
        self.atype.copy_(atype)
        filled(self.inputs, graph)

    def forward(self) -> tuple[tuple[torch.Tensor, ...], _Ticket]:
        """Evaluate the batch: results of any shape, and what asks for the gradients."""
        ticket = _Ticket()
        self.ticket, self.versions = weakref.ref(ticket), self._versions()
        self._forward.replay()
        return tuple(value.clone() for value in self.results if value is not None), ticket

    def backward(self, ticket: _Ticket, incoming: tuple[torch.Tensor, ...]) -> list[torch.Tensor | None]:
        """Gradients of the weights, given those with respect to the results, of the same shapes.

        Raises
        ------
        RuntimeError
            If the step is over: another one was evaluated, or the weights are others.
        """
        if self.ticket() is not ticket or self._versions() != self.versions:
            raise RuntimeError(
                "mace model: gradients of a training step were asked for after the weights had changed. Evaluate the "
                "model again before."
            )
        if ticket.asked:  # the first time has overwritten what the evaluation had kept
            self._forward.replay()
        ticket.asked = True
        for mine, given in zip(self.incoming, incoming, strict=True):
            mine.copy_(given)
        self._backward.replay()
        copies = [None if value is None else torch.empty_like(value) for value in self.gradients]
        torch._foreach_copy_(
            [value for value in copies if value is not None],
            [value for value in self.gradients if value is not None],
        )
        return copies

    def _versions(self) -> int:
        return sum(weight._version for weight in self.trained)


class _Step(torch.autograd.Function):
    """Results of a captured step as a function of the weights."""

    @staticmethod
    def forward(ctx: Any, step: CapturedStep, *trained: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ARG004
        results, ctx.ticket = step.forward()
        ctx.step = step
        return results

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *incoming: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, *ctx.step.backward(ctx.ticket, incoming))


class TrainingReplay:
    """Evaluate batches, from the third one of a size on by replaying a captured step.

    Parameters
    ----------
    model : Evaluation
        In training mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = weakref.ref(model)
        self.works = True
        self.state: tuple[Any, ...] = ()
        self._forget()

    def _forget(self) -> None:
        self.steps: dict[tuple[int, ...], CapturedStep] = {}
        self.held: dict[tuple[int, ...], int] = {}
        self.seen: dict[tuple[int, ...], int] = {}
        self.captures: dict[tuple[int, ...], int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of the model captures its own steps."""
        return type(None), ()

    def __call__(self, graph: AtomGraph, atype: torch.Tensor, nloc: int, nall: int) -> Result:
        """Evaluate a batch.

        Parameters
        ----------
        graph, atype, nloc, nall :
            See :meth:`~deepmd_gnn.host.evaluation.Evaluation.derivatives`; all edges are in `order`.

        Returns
        -------
        energy, force, atom_virial : torch.Tensor
            eV, eV/Å and eV, shapes (nf, nloc, 1), (nf, nall, 3) and (nf, nall, 9).
        """
        # Where processes share weights, these may move between an evaluation and its gradients.
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        wanted = self.works and alone and torch.is_grad_enabled()
        step = self._step(graph, atype, nloc, nall) if wanted else None
        if step is None:
            try:
                return self._ordinary(graph, atype, nloc, nall)
            except torch.OutOfMemoryError:
                if not self.steps:
                    raise
            self.works = False  # their memory is needed
            self._forget()
            return self._ordinary(graph, atype, nloc, nall)
        step.fill(graph, atype)
        return _Step.apply(step, *step.trained)  # type: ignore[no-any-return, no-untyped-call]

    def _ordinary(self, graph: AtomGraph, atype: torch.Tensor, nloc: int, nall: int) -> Result:
        model = self.model()
        assert model is not None
        return model.derivatives(graph, atype, nloc, nall)  # type: ignore[no-any-return]

    def _step(self, graph: AtomGraph, atype: torch.Tensor, nloc: int, nall: int) -> CapturedStep | None:
        """The captured step for a batch, if there is one that nobody waits for."""
        model = self.model()
        if model is None or graph.edge_vec.requires_grad or graph.node_types.shape[0] > CHEAP_NODES:
            return None
        if not on_current_device(graph.edge_vec) or torch.is_anomaly_enabled():
            return None
        state = _state(model)
        if state != self.state:  # other tensors, of which the captured steps know nothing
            self._forget()
            self.state = state
        size = (*atype.shape, nloc, nall)
        step = self.steps.get(size)
        if step is not None and step.holds(graph):
            return None if step.waiting() else step
        self.seen[size] = self.seen.get(size, 0) + 1
        if self.seen[size] <= BEFORE_CAPTURE or self.captures.get(size, 0) >= MOST_CAPTURES:
            return None
        if step is None and len(self.steps) >= KEPT:
            return None
        self._drop(size)
        self.captures[size] = self.captures.get(size, 0) + 1
        return self._captured(size, graph, atype, model)

    def _drop(self, size: tuple[int, ...]) -> None:
        """Forget a step that was captured."""
        self.steps.pop(size, None)
        self.held.pop(size, None)

    def _captured(
        self, size: tuple[int, ...], graph: AtomGraph, atype: torch.Tensor, model: Any
    ) -> CapturedStep | None:
        """Capture a step, types of shape (nf, nloc); None if it cannot be, or would hold too much memory."""
        nedge = int(graph.edge_vec.shape[0] * ROOM ** self.captures[size]) + 256
        before = memory()[0]
        try:
            step = CapturedStep(model, graph, atype, size[-2], size[-1], nedge)
        except Exception as error:  # out of memory, or something that cannot be captured
            self.works = False
            self._forget()
            log.info("mace model: training steps are not captured as CUDA graphs: %s", error)
            return None
        now, most, total = memory()
        held = now - before
        if held + sum(self.held.values()) > MOST_HELD * total or now + most > MOST_MEMORY * total:
            self.captures[size] = MOST_CAPTURES
            log.info(
                "mace model: training steps of %d atoms are not captured as CUDA graphs: one would hold %.1f GB",
                atype.numel(),
                held / 1e9,
            )
            return None
        self.steps[size], self.held[size] = step, held
        return step


def _state(model: torch.nn.Module) -> tuple[Any, ...]:
    """What a captured step has read of a model: where its tensors are, and which are trained."""
    tensors = [*model.parameters(), *model.buffers()]
    return tuple((id(tensor), tensor.data_ptr(), tensor.requires_grad) for tensor in tensors)


def _compare(found: Tensors, exact: Tensors, most: float) -> None:
    """Refuse other numbers, relative to the largest of each array, of any shape."""
    overall = max(float(value.abs().max()) for value in exact if value is not None and value.numel())
    for ours, theirs in zip(found, exact, strict=True):
        if ours is None or theirs is None:
            if ours is not theirs:
                raise RuntimeError("a gradient is missing")
            continue
        if theirs.numel():
            largest = max(float(theirs.abs().max()), 1e-6 * overall)
            difference = float((ours - theirs).abs().max()) / largest
            if not difference <= most:
                raise RuntimeError(f"they are off by {difference:.1e} of the largest value")
