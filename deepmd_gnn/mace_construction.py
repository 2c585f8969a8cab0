"""Native modules built in float64 without a change of the process: other threads make tensors and evaluate models meanwhile.

MACE and e3nn read torch's default dtype, its random generator and e3nn's settings, which belong to the whole process.
Nothing of that is set here. What torch is asked for is changed on the way, in this thread only.
"""

import contextvars
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import e3nn
import numpy as np
import opt_einsum_fx
import torch
from torch import fx
from torch.overrides import TorchFunctionMode

# Functions that make floating tensors if they are not told a dtype, and those that then look at their arguments.
_FLOATING = {torch.empty, torch.zeros, torch.ones, torch.eye, torch.rand, torch.randn, torch.linspace}
_INFERRING = {torch.tensor, torch.as_tensor, torch.full, torch.arange}
_RANDOM = {torch.rand, torch.randn, torch.Tensor.uniform_, torch.Tensor.normal_}

# None outside a construction; inside, whether the modules will be evaluated.
_to_run: contextvars.ContextVar[bool | None] = contextvars.ContextVar("to_run", default=None)


def generator_seed(seed: int | list[int] | None) -> int | None:
    """Seed of a generator of initial weights, from that of the model section; None stays None."""
    return None if seed is None else int(np.random.SeedSequence(seed).generate_state(1)[0])


@contextmanager
def construction(seed: int | None, *, to_run: bool) -> Iterator[None]:
    """Build native modules inside: in float64, with an own random generator, quickly.

    Parameters
    ----------
    seed : int, optional
        Of the random weights, the same as after ``torch.manual_seed``; None takes the next numbers of torch's generator.
    to_run : bool
        Whether the modules will be evaluated. If not, nobody looks for the best order of their products.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    token = _to_run.set(to_run)
    try:
        with _Float64(generator):
            yield
    finally:
        _to_run.reset(token)


class _Float64(TorchFunctionMode):
    """Functions of torch called in this thread take float64 for the default dtype, and `generator` for the default one."""

    def __init__(self, generator: torch.Generator | None) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        default = torch.get_default_dtype()
        args = tuple(torch.float64 if value is default else value for value in args)
        kwargs = {
            name: torch.float64 if value is default else value for name, value in (kwargs or {}).items()
        }
        if func in _FLOATING and kwargs.get("dtype") is None:
            kwargs["dtype"] = torch.float64
        draws = func in _RANDOM or "generator" in kwargs
        if draws and self.generator is not None and kwargs.get("generator") is None:
            kwargs["generator"] = self.generator
        result = func(*args, **kwargs)
        if func in _INFERRING and kwargs.get("dtype") is None and result.dtype is default:
            return func(*args, **{**kwargs, "dtype": torch.float64})
        return result


def without_side_effects(module: ModuleType) -> None:
    """Let constructors of native modules read what :func:`construction` says; for everyone else they do what they did.

    Parameters
    ----------
    module : ModuleType
        ``mace.modules``.
    """
    contraction = module.symmetric_contraction.Contraction
    if getattr(contraction.__init__, "without_side_effects", False):
        return
    # torch.fx replaces torch.nn.Module.__call__ of all threads while it traces, so this constructor gets a tracer that does not.
    names = {
        "torch": _Torch(),
        "opt_einsum_fx": SimpleNamespace(optimize_einsums_full=_optimized),
        "U_matrix_real": _computed_once(module.symmetric_contraction.U_matrix_real),
    }
    contraction.__init__ = _with_names(contraction.__init__, names)
    contraction.__init__.without_side_effects = True
    # cuEquivariance's modules keep the dtype that they compute in.
    for wrapper in (module.wrapper_ops.TensorProduct, module.wrapper_ops.SymmetricContractionWrapper):
        wrapper.__new__ = staticmethod(_with_names(wrapper.__new__, {"torch": _Torch()}))
    normalization = sys.modules["e3nn.math._normalize_activation"]
    normalization.moment = _moment_once(normalization.moment)  # type: ignore[attr-defined]
    original = e3nn.get_optimization_defaults
    e3nn.get_optimization_defaults = lambda: {**original(), **_settings()}


def _settings() -> dict[str, bool]:
    """What differs from e3nn's settings in this thread: no scripting, which takes seconds."""
    to_run = _to_run.get()
    if to_run is None:
        return {}
    return {"jit_script_fx": False} if to_run else {"jit_script_fx": False, "optimize_einsums": False}


def _with_names(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    """Make the same function with other meanings of some global names."""
    changed = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    changed.__kwdefaults__ = function.__kwdefaults__
    changed.__qualname__, changed.__module__ = function.__qualname__, function.__module__
    changed.__annotations__ = function.__annotations__
    return changed


def _computed_once(function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Keep the coupling coefficients: a model is built several times in a process, and they take most of the time.

    Parameters
    ----------
    function : Callable
        ``mace.tools.cg.U_matrix_real``, whose result depends on its arguments alone, as its constructor calls it.
    """
    kept = functools.lru_cache(maxsize=64)(function)

    def computed(**arguments: Any) -> list[Any]:
        found = kept(**arguments)
        return [value.clone() if isinstance(value, torch.Tensor) else value for value in found]

    return computed


def _moment_once(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Keep the moments of activations: e3nn finds each from a million numbers, a third of the time that a model takes to build.

    Parameters
    ----------
    function : Callable
        ``e3nn.math.moment``, which draws the same numbers at every call.
    """
    kept = functools.lru_cache(maxsize=64)(function)

    def moment(f: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        # A module may change, and so may what a method belongs to; functions do not.
        if isinstance(f, FunctionType | BuiltinFunctionType):
            return kept(f, *arguments, **options).clone()
        return function(f, *arguments, **options)

    return moment


class _Torch:
    """torch as constructors see it."""

    fx = SimpleNamespace(symbolic_trace=lambda function: _recorded(function))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def get_default_dtype() -> torch.dtype:
        return torch.get_default_dtype() if _to_run.get() is None else torch.float64


def _recorded(function: Callable[..., fx.Proxy]) -> fx.GraphModule:
    """``torch.fx.symbolic_trace`` of a function of tensors that calls no module, and so needs none replaced."""
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    inputs = [fx.Proxy(graph.placeholder(name), tracer) for name in inspect.signature(function).parameters]
    graph.output(function(*inputs).node)
    return fx.GraphModule(torch.nn.Module(), graph)


def _optimized(model: fx.GraphModule, example_inputs: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """Order of products for `model`, unless nobody will evaluate it."""
    if _to_run.get() is False:
        return model
    return opt_einsum_fx.optimize_einsums_full(model=model, example_inputs=example_inputs)
