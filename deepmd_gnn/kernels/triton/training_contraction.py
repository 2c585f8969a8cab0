"""The symmetric contraction of a layer in training: operators that launch generated kernels, and their derivatives.

As in :mod:`~deepmd_gnn.kernels.triton.training_convolution`, the first derivative, with autograd on, is that with respect to
positions; coefficients, which depend on weights alone, have one during the second only.
"""

import functools
from typing import Any

import torch

from deepmd_gnn.kernels.triton import reference as evaluation
from deepmd_gnn.kernels.triton import training_reference as reference
from deepmd_gnn.kernels.triton.operator import operator
from deepmd_gnn.kernels.triton.operators import launches_of_parts, on_cpu
from deepmd_gnn.kernels.triton.source import generated_module
from deepmd_gnn.kernels.triton.training_launches import Launch, launch


@operator("deepmd_gnn::train_contract")
def contract(
    features: torch.Tensor, coefficients: torch.Tensor, kind: torch.Tensor, code: str
) -> torch.Tensor:
    """Evaluate the polynomials of the product basis.

    Parameters
    ----------
    features : torch.Tensor
        Messages, shape (nnode, components, channels).
    coefficients : torch.Tensor
        Shape (types, terms, channels).
    kind : torch.Tensor
        Type of each node, int64, shape (nnode,).
    code : str
        Generated module.

    Returns
    -------
    torch.Tensor
        Shape (nnode, components of the result, channels).
    """
    module = generated_module(code)
    if on_cpu(features):
        return evaluation.contract(features, coefficients, kind, module)
    out = _results(features, module)
    launch(features, values_launches(module, features, coefficients, kind, out))
    return out


def values_launches(module: Any, *arrays: torch.Tensor) -> list[Launch]:
    """Kernels of :func:`contract` for `features` and so on."""
    return launches_of_parts(module, "contract", arrays[0].shape[0], *arrays)


def _of_groups(
    module: Any, name: str, out: torch.Tensor, gradient: torch.Tensor, *arrays: torch.Tensor
) -> list[Launch]:
    """Kernels that sum over atoms."""
    nnode, ntypes = gradient.shape[0], out.shape[0]
    grid = (module.BLOCKS * ntypes * -(-nnode // module.ATOMS),)
    kernels = [getattr(module, f"{name}{group}") for group in range(module.GROUPS)]
    return [
        functools.partial(kernel[grid], gradient, *arrays, out, nnode, ntypes, num_warps=1)
        for kernel in kernels
    ]


def _results(features: torch.Tensor, module: Any) -> torch.Tensor:
    return features.new_empty(features.shape[0], module.WIDTH, features.shape[2])


@contract.register_fake
def _(features: Any, coefficients: Any, kind: Any, code: str) -> torch.Tensor:
    return _results(features, generated_module(code))


@operator("deepmd_gnn::train_contract_backward")
def contract_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    coefficients: torch.Tensor,
    kind: torch.Tensor,
    code: str,
    of_coefficients: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differentiate :func:`contract`.

    Parameters
    ----------
    gradient : torch.Tensor
        With respect to the result, shape (nnode, components of the result, channels).
    features, coefficients, kind, code :
        See :func:`contract`.
    of_coefficients : bool
        Whether this derivative is wanted; else it has shape (0,).

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor]
        Derivatives with respect to `features` and `coefficients`.
    """
    module = generated_module(code)
    if on_cpu(features):
        out = evaluation.contract_backward(gradient, features, coefficients, kind, module)
        if not of_coefficients:
            return out, features.new_empty(0)
        return out, reference.contract_weights(gradient, features, None, coefficients, kind, module)
    out = torch.empty_like(features)
    d_coefficients = torch.zeros_like(coefficients) if of_coefficients else features.new_empty(0)
    launches = derivative_launches(module, gradient, features, coefficients, kind, out)
    if of_coefficients:
        launches += weights_launches(module, d_coefficients, gradient, features, kind)
    launch(features, launches)
    return out, d_coefficients


def derivative_launches(module: Any, *arrays: torch.Tensor) -> list[Launch]:
    """Kernels of :func:`contract_backward` for `gradient`, `features` and so on."""
    return launches_of_parts(module, "contract_backward", arrays[0].shape[0], *arrays)


def weights_launches(module: Any, out: torch.Tensor, *arrays: torch.Tensor) -> list[Launch]:
    """Further ones, added to `out`, of the coefficients' shape, for `gradient`, `features` and `kind`."""
    return _of_groups(module, "weights", out, *arrays)


@contract_backward.register_fake
def _(
    gradient: Any, features: Any, coefficients: Any, kind: Any, code: str, of_coefficients: bool
) -> tuple[torch.Tensor, ...]:
    empty = torch.empty_like(coefficients) if of_coefficients else features.new_empty(0)
    return torch.empty_like(features), empty


@operator("deepmd_gnn::train_contract_second")
def contract_second(
    t_features: torch.Tensor,
    gradient: torch.Tensor,
    features: torch.Tensor,
    coefficients: torch.Tensor,
    kind: torch.Tensor,
    code: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Differentiate the derivative with respect to the features, of :func:`contract_backward`.

    Parameters
    ----------
    t_features : torch.Tensor
        With respect to it, shape (nnode, components, channels).
    gradient, features, coefficients, kind, code :
        See there.

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor, torch.Tensor]
        Derivatives with respect to `gradient`, `features` and `coefficients`.
    """
    module = generated_module(code)
    if on_cpu(features):
        return reference.contract_second(t_features, gradient, features, coefficients, kind, module)
    g_gradient, g_features = torch.empty_like(gradient), torch.empty_like(features)
    g_coefficients = torch.zeros_like(coefficients)
    launch(
        features,
        change_launches(
            module, gradient, features, t_features, coefficients, kind, g_gradient, g_features, g_coefficients
        ),
    )
    return g_gradient, g_features, g_coefficients


def change_launches(module: Any, *arrays: torch.Tensor) -> list[Launch]:
    """Kernels of :func:`contract_second`; the last three arrays are its results."""
    gradient, features, t_features, _, kind, _, _, g_coefficients = arrays
    launches = launches_of_parts(module, "change", features.shape[0], *arrays[:-1])
    return launches + _of_groups(
        module, "weights_change", g_coefficients, gradient, features, t_features, kind
    )


@contract_second.register_fake
def _(
    t_features: Any, gradient: Any, features: Any, coefficients: Any, kind: Any, code: str
) -> tuple[torch.Tensor, ...]:
    return torch.empty_like(gradient), torch.empty_like(features), torch.empty_like(coefficients)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.code = inputs[3]


def _differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    of_coefficients = ctx.needs_input_grad[1] and not torch.is_grad_enabled()
    d_features, d_coefficients = contract_backward(
        gradient.contiguous(), *ctx.saved_tensors, ctx.code, of_coefficients
    )
    return d_features, d_coefficients if of_coefficients else None, None, None


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.code = inputs[4]
    ctx.set_materialize_grads(False)


def _differentiate_backward(
    ctx: Any, t_features: torch.Tensor | None, t_coefficients: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    del t_coefficients  # there is none: coefficients are not differentiated while autograd is on
    if t_features is None:
        return (None,) * 6
    return *contract_second(t_features.contiguous(), *ctx.saved_tensors, ctx.code), None, None, None


contract.register_autograd(_differentiate, setup_context=_keep)
contract_backward.register_autograd(_differentiate_backward, setup_context=_keep_backward)
