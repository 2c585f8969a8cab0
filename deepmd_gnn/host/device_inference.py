"""Checkpoints that DeePMD-kit's Python inference opens: one thread at a time, and on a GPU evaluated with generated kernels.

The host scripts the model of a ``.pt``, which two threads cannot do at once, and would run the torch code. After it has opened one with a MACE model on
CUDA, the model is rebuilt as a Python module with the same weights that launches Triton kernels.
"""

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

from deepmd_gnn.files.torch_fixes import scripting
from deepmd_gnn.host.classes import is_ours

log = logging.getLogger("deepmd.deepmd_gnn")


def with_kernels(original: Callable[..., None]) -> Callable[..., None]:
    """Let the host's inference launch kernels for checkpoints on a GPU; nothing changes for other models and devices.

    Parameters
    ----------
    original : Callable
        ``deepmd.pt.infer.deep_eval.DeepEval.__init__``.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def __init__(self: Any, model_file: str, *args: Any, **kwargs: Any) -> None:
        with scripting if str(model_file).endswith(".pt") else contextlib.nullcontext():
            original(self, model_file, *args, **kwargs)
        parameters = getattr(self, "input_param", None)
        if not str(model_file).endswith(".pt") or not isinstance(parameters, dict) or not is_ours(parameters):
            return
        model = self.dp.model["Default"]
        if not parameters.get("hessian_mode") and _on_cuda(model):
            self.dp.model["Default"] = _with_kernels(model, parameters)

    return __init__


def _on_cuda(model: torch.nn.Module) -> bool:
    return any(buffer.device.type == "cuda" for buffer in model.buffers())


def _with_kernels(model: torch.nn.Module, parameters: dict[str, Any]) -> torch.nn.Module:
    """The same model as a Python module that launches kernels; the given one if there are no kernels for it."""
    from deepmd.pt.model.model import get_model

    rebuilt: Any = get_model(parameters)
    rebuilt.load_state_dict(model.state_dict(), strict=False)
    rebuilt.eval()
    try:
        from deepmd_gnn.kernels.triton.build import triton_kernels

        kernels = triton_kernels(rebuilt.energy_model)
        if not isinstance(kernels, str):
            kernels.compile(rebuilt.out_bias.device)
            rebuilt.launch_kernels(kernels)
            return rebuilt
        reason = kernels
    except (
        Exception
    ) as error:  # no Triton, no C compiler, no headers of Python: the torch code needs none of them
        reason = str(error).strip() or type(error).__name__
    log.warning("mace model: no generated kernels, the torch code runs instead, which is slower: %s", reason)
    return model
