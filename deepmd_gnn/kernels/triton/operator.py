"""Operators of torch that launch kernels, called without torch's dispatcher where nothing records or changes the call.

The dispatcher's way to an operator written in Python takes longer than the kernels of a small system.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch._C._functorch import peek_interpreter_stack

Setup = Callable[[Any, tuple[Any, ...], Any], None]
PLAIN = (torch.Tensor, torch.nn.Parameter)


class Operator:
    """A function as an operator of torch.

    Parameters
    ----------
    name : str
        With its namespace.
    function : Callable
        Of annotated arguments, none of which it changes.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.function = function
        self.recorded = torch.library.custom_op(name, function, mutates_args=())
        self.differentiable: Any = None
        self.__doc__ = function.__doc__

    @property
    def _opoverload(self) -> Any:
        return self.recorded._opoverload

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Say what shapes the results have, of shape as the arguments tell; see ``torch.library.custom_op``."""
        return self.recorded.register_fake(function)

    def register_autograd(self, differentiate: Callable[..., Any], *, setup_context: Setup) -> None:
        """Say how to differentiate the function; see ``torch.library.custom_op``."""
        self.recorded.register_autograd(differentiate, setup_context=setup_context)
        self.differentiable = _differentiable(self.function, differentiate, setup_context)

    def __call__(self, *arguments: Any) -> Any:
        """Evaluate."""
        if not _direct(arguments):
            return self.recorded(*arguments)
        if self.differentiable is not None:
            return self.differentiable.apply(*arguments)
        if torch.is_grad_enabled() and any(
            isinstance(x, torch.Tensor) and x.requires_grad for x in arguments
        ):
            return self.recorded(*arguments)  # which refuses a derivative that it has not got
        return self.function(*arguments)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make an :class:`Operator` of the decorated function."""
    return lambda function: Operator(name, function)


def _direct(arguments: tuple[Any, ...]) -> bool:
    """Whether the arguments are plain tensors, and no tracer, compiler or transformation looks on."""
    return (
        not torch.compiler.is_compiling()  # first: the compiler does not know the others
        and torch._C._len_torch_dispatch_stack() == 0
        and peek_interpreter_stack() is None
        and all(not isinstance(x, torch.Tensor) or type(x) in PLAIN for x in arguments)
    )


def _differentiable(function: Callable[..., Any], differentiate: Callable[..., Any], setup: Setup) -> Any:
    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            result = function(*arguments)
            setup(ctx, arguments, result)
            return result

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return differentiate(ctx, *gradients)

    return Differentiable
