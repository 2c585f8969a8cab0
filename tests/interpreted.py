"""Triton's interpreter for kernels that are compiled otherwise, on a machine without a GPU."""

import contextlib
from types import SimpleNamespace
from unittest import mock

import numpy as np
import triton.experimental.gluon  # noqa: F401 - expects the library as it is not interpreted
import triton.language as tl
from triton.runtime import interpreter, jit
from triton.runtime.interpreter import InterpretedFunction

_patch_lang, _patch_lang_tensor = interpreter._patch_lang, interpreter._patch_lang_tensor
_LIBRARY = tl.standard.cdiv.fn  # any function of Triton's own library


@contextlib.contextmanager
def interpreted(*modules):
    """Let the interpreter run the kernels of these modules.

    Else the variable TRITON_INTERPRET would have to be set before anything imports Triton, and torch may have done so
    already.
    """
    with contextlib.ExitStack() as stack:
        for module in (tl, tl.standard, *modules):
            for name, value in list(vars(module).items()):
                if isinstance(value, jit.JITFunction):
                    stack.enter_context(mock.patch.object(module, name, InterpretedFunction(value.fn)))
        for name, value in {"_patch_lang": _once_for_all, "_patch_lang_tensor": _with_index}.items():
            stack.enter_context(mock.patch.object(interpreter, name, value))
        stack.enter_context(mock.patch.object(InterpretedFunction, "__call__", _call))
        stack.enter_context(np.errstate(all="ignore"))  # lanes that are masked out compute all the same
        yield


def _once_for_all(kernel):
    """Patch the language for a kernel and for the library, instead of at every call of a function: most of the time."""
    scopes = [_patch_lang(_LIBRARY), _patch_lang(kernel)]
    return SimpleNamespace(restore=lambda: [scope.restore() for scope in reversed(scopes)])


def _call(function, *args, **kwargs):
    return function.rewrite()(*args, **kwargs)


def _with_index(tensor, scope):
    """Loops count to tensors, which the interpreter keeps as arrays of one element; NumPy makes no number of these."""
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))
