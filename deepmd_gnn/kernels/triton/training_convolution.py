r"""The convolution of a layer in training: operators that launch generated kernels, and their derivatives.

A training step differentiates twice: forces are derivatives of the energy with respect to positions, and the loss is
differentiated with respect to weights. During the first derivative autograd is on, because its graph is kept; during the second
it is off. What only the other one needs is left out: harmonics depend on positions alone, so they are constants of the second
derivative. Derivatives with respect to positions beyond forces (Hessians) are for the torch code.

On a CPU the operators evaluate :mod:`~deepmd_gnn.kernels.triton.training_reference`.
"""

import functools
from typing import Any

import torch

from deepmd_gnn.kernels.triton import training_reference as reference
from deepmd_gnn.kernels.triton.operator import operator
from deepmd_gnn.kernels.triton.operators import on_cpu
from deepmd_gnn.kernels.triton.source import generated_module
from deepmd_gnn.kernels.triton.training_launches import Launch, launch


@operator("deepmd_gnn::train_convolve")
def convolve(
    radial: torch.Tensor,
    sent: torch.Tensor,
    harmonics: torch.Tensor,
    sender: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    code: str,
    moving: bool,
) -> torch.Tensor:
    """Sum the messages of every receiver.

    Parameters
    ----------
    radial : torch.Tensor
        Radial weights, shape (nedge, npath * channels).
    sent : torch.Tensor
        Features of the senders, shape (nsender, components, channels).
    harmonics : torch.Tensor
        Spherical harmonics, the first one 1, shape (nedge, ·).
    sender : torch.Tensor
        Sender of each edge, int64, shape (nedge,).
    order, begin : torch.Tensor
        All edges grouped by receiver, and where each group begins and the last one ends, int64, shapes (nedge,) and (nnode + 1,).
    code : str
        Generated module.
    moving : bool
        Whether `sent` depends on positions; only the derivative reads it.

    Returns
    -------
    torch.Tensor
        Shape (nnode, Σ_p d3, channels).
    """
    module = generated_module(code)
    if on_cpu(sent):
        return reference.convolve(radial, sent, harmonics, reference.Messages(sender, order, begin, module))
    out = _results(sent, begin, module)
    launch(sent, values_launches(module, radial, sent, harmonics, sender, order, begin, out))
    return out


def values_launches(module: Any, *arrays: torch.Tensor) -> list[Launch]:
    """Kernel of :func:`convolve`; the last array is the result, the one before `begin`."""
    nnode = arrays[-2].shape[0] - 1
    return [functools.partial(module.forward[(nnode * module.BLOCKS,)], *arrays, nnode, num_warps=1)]


def _results(sent: torch.Tensor, begin: torch.Tensor, module: Any) -> torch.Tensor:
    return sent.new_empty(begin.shape[0] - 1, module.WIDTH, sent.shape[2])


@convolve.register_fake
def _(
    radial: Any, sent: Any, harmonics: Any, sender: Any, order: Any, begin: Any, code: str, moving: bool
) -> torch.Tensor:
    return _results(sent, begin, generated_module(code))


@operator("deepmd_gnn::train_convolve_backward")
def convolve_backward(
    gradient: torch.Tensor,
    radial: torch.Tensor,
    sent: torch.Tensor,
    harmonics: torch.Tensor,
    sender: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    code: str,
    of_sent: bool,
    of_harmonics: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Differentiate :func:`convolve`.

    Parameters
    ----------
    gradient : torch.Tensor
        With respect to the result, shape (nnode, Σ_p d3, channels).
    radial, sent, harmonics, sender, order, begin, code :
        See :func:`convolve`.
    of_sent, of_harmonics : bool
        Whether these derivatives are wanted; else they have shape (0,).

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor, torch.Tensor]
        Derivatives with respect to `radial`, `sent` and `harmonics`.
    """
    module = generated_module(code)
    if on_cpu(sent):
        messages = reference.Messages(sender, order, begin, module)
        return reference.convolve_backward(gradient, radial, sent, harmonics, messages, of_sent, of_harmonics)
    d_radial = torch.empty_like(radial)
    d_sent = torch.zeros_like(sent) if of_sent else sent.new_empty(0)
    # Every block of channels and group of paths has its own part of the sum.
    parts = module.BLOCKS * module.GROUPS
    d_harmonics = sent.new_empty(parts, *harmonics.shape) if of_harmonics else sent.new_empty(0)
    arrays = (gradient, radial, sent, harmonics, sender, order, begin, d_radial, d_sent, d_harmonics)
    launch(sent, derivative_launches(module, *arrays, of_sent=of_sent, of_harmonics=of_harmonics))
    return d_radial, d_sent, d_harmonics.sum(0) if of_harmonics else d_harmonics


def derivative_launches(
    module: Any, *arrays: torch.Tensor, of_sent: bool, of_harmonics: bool
) -> list[Launch]:
    """Kernel of :func:`convolve_backward`; the last three arrays are the results, the harmonics' in parts."""
    nnode, nedge = arrays[0].shape[0], arrays[1].shape[0]
    kernel = module.backward[(nnode * module.BLOCKS,)]
    flags = {"OF_SENT": of_sent, "OF_HARMONICS": of_harmonics}
    return [functools.partial(kernel, *arrays, nedge, nnode, **flags, num_warps=1)]


@convolve_backward.register_fake
def _(
    gradient: Any,
    radial: Any,
    sent: Any,
    harmonics: Any,
    sender: Any,
    order: Any,
    begin: Any,
    code: str,
    of_sent: bool,
    of_harmonics: bool,
) -> tuple[torch.Tensor, ...]:
    return (
        torch.empty_like(radial),
        torch.empty_like(sent) if of_sent else sent.new_empty(0),
        torch.empty_like(harmonics) if of_harmonics else sent.new_empty(0),
    )


@operator("deepmd_gnn::train_convolve_second")
def convolve_second(
    t_radial: torch.Tensor,
    t_sent: torch.Tensor | None,
    t_harmonics: torch.Tensor,
    gradient: torch.Tensor,
    radial: torch.Tensor,
    sent: torch.Tensor,
    harmonics: torch.Tensor,
    sender: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    code: str,
    of_sent: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Differentiate :func:`convolve_backward`; harmonics are constant.

    Parameters
    ----------
    t_radial, t_sent, t_harmonics : torch.Tensor
        With respect to its results; None, of the features only, is zero.
    gradient, radial, sent, harmonics, sender, order, begin, code :
        See there.
    of_sent : bool
        Whether the derivative with respect to `sent` is wanted; else it has shape (0,).

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor, torch.Tensor]
        Derivatives with respect to `gradient`, `radial` and `sent`.
    """
    module = generated_module(code)
    if on_cpu(sent):
        messages = reference.Messages(sender, order, begin, module)
        return reference.convolve_second(
            t_radial, t_sent, t_harmonics, gradient, radial, sent, harmonics, messages, of_sent
        )
    g_gradient, g_radial = torch.empty_like(gradient), torch.empty_like(radial)
    g_sent = torch.zeros_like(sent) if of_sent else sent.new_empty(0)
    moving = t_sent is not None
    changed = sent if t_sent is None else t_sent
    edges = (radial, sent, harmonics, t_radial, changed, t_harmonics, sender, order, begin)
    results = (g_gradient, g_radial, g_sent)
    launch(sent, change_launches(module, gradient, *edges, *results, moving=moving, of_sent=of_sent))
    return g_gradient, g_radial, g_sent


def change_launches(module: Any, *arrays: torch.Tensor, moving: bool, of_sent: bool) -> list[Launch]:
    """Kernels of :func:`convolve_second`; the last three arrays are its results."""
    gradient, *edges, g_gradient, g_radial, g_sent = arrays
    nnode, nedge = gradient.shape[0], edges[0].shape[0]
    grid, flags = (nnode * module.BLOCKS,), {"MOVING": moving, "num_warps": 1}
    return [
        functools.partial(module.forward_change[grid], *edges, g_gradient, nnode, **flags),
        functools.partial(
            module.backward_change[grid],
            gradient,
            *edges,
            g_radial,
            g_sent,
            nedge,
            nnode,
            OF_SENT=of_sent,
            **flags,
        ),
    ]


@convolve_second.register_fake
def _(
    t_radial: Any,
    t_sent: Any,
    t_harmonics: Any,
    gradient: Any,
    radial: Any,
    sent: Any,
    harmonics: Any,
    sender: Any,
    order: Any,
    begin: Any,
    code: str,
    of_sent: bool,
) -> tuple[torch.Tensor, ...]:
    g_sent = torch.empty_like(sent) if of_sent else sent.new_empty(0)
    return torch.empty_like(gradient), torch.empty_like(radial), g_sent


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.code, ctx.moving = inputs[6:]


def _differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    first = torch.is_grad_enabled()
    of_sent = ctx.needs_input_grad[1] and (ctx.moving or not first)
    of_harmonics = ctx.needs_input_grad[2] and first
    d_radial, d_sent, d_harmonics = convolve_backward(
        gradient.contiguous(), *ctx.saved_tensors, ctx.code, of_sent, of_harmonics
    )
    return d_radial, d_sent if of_sent else None, d_harmonics if of_harmonics else None, *[None] * 5


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.code = inputs[7]
    ctx.set_materialize_grads(False)


def _differentiate_backward(
    ctx: Any,
    t_radial: torch.Tensor | None,
    t_sent: torch.Tensor | None,
    t_harmonics: torch.Tensor | None,
) -> tuple[torch.Tensor | None, ...]:
    _, radial, _, harmonics = ctx.saved_tensors[:4]
    of_sent = ctx.needs_input_grad[2]
    g_gradient, g_radial, g_sent = convolve_second(
        torch.zeros_like(radial) if t_radial is None else t_radial.contiguous(),
        None if t_sent is None else t_sent.contiguous(),
        torch.zeros_like(harmonics) if t_harmonics is None else t_harmonics.contiguous(),
        *ctx.saved_tensors,
        ctx.code,
        of_sent,
    )
    return g_gradient, g_radial, g_sent if of_sent else None, *[None] * 7


convolve.register_autograd(_differentiate, setup_context=_keep)
convolve_backward.register_autograd(_differentiate_backward, setup_context=_keep_backward)
