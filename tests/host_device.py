"""DeePMD-kit on the device of :mod:`other_device`: what its commands do with files and optimisers there.

A GPU's tensors go to files and come from them by themselves; those of a device that exists only here are moved.
"""

import contextlib
import sys

import torch
from other_device import DEVICE, OtherTensor, other_device, to_cpu
from torch.utils._pytree import tree_map


def goes_there(location):
    return location is not None and torch.device(location) == DEVICE


def move(module, function):
    """Replace the tensors of a scripted module."""
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            setattr(part, name, torch.nn.Parameter(function(value.detach()), value.requires_grad))
        for name, value in part.named_buffers(recurse=False):
            setattr(part, name, function(value))
    return module


@contextlib.contextmanager
def files(patch):
    """Read and write files of models and checkpoints."""
    load, save, load_script, save_script = torch.load, torch.save, torch.jit.load, torch.jit.save

    def load_there(file, map_location=None, **options):
        there = goes_there(map_location)
        content = load(file, map_location="cpu" if there else map_location, **options)
        return (
            tree_map(lambda v: OtherTensor(v) if isinstance(v, torch.Tensor) else v, content)
            if there
            else content
        )

    def save_from_there(content, file, **options):
        save(
            tree_map(lambda v: to_cpu(v.detach()) if isinstance(v, OtherTensor) else v, content),
            file,
            **options,
        )

    def load_script_there(file, map_location=None, **options):
        there = goes_there(map_location)
        module = load_script(file, "cpu" if there else map_location, **options)
        return move(module, OtherTensor) if there else module

    def save_script_from_there(module, file, *rest, **options):
        return save_script(move(module, to_cpu), file, *rest, **options)

    patch.setattr(torch, "load", load_there)
    patch.setattr(torch, "save", save_from_there)
    patch.setattr(torch.jit, "load", load_script_there)
    patch.setattr(torch.jit, "save", save_script_from_there)
    yield


@contextlib.contextmanager
def host_on_other_device(patch):
    """Run DeePMD-kit's commands with the other device as its own."""
    from deepmd.pt.utils import env

    here = env.DEVICE
    with other_device(patch), patch.context() as inner, files(inner):
        for name, module in list(sys.modules.items()):
            if name.startswith("deepmd.pt") and getattr(module, "DEVICE", None) == here:
                inner.setattr(module, "DEVICE", DEVICE)
            if name.startswith("deepmd.pt") and hasattr(module, "NUM_WORKERS"):
                inner.setattr(module, "NUM_WORKERS", 0)
        optimizer = sys.modules["torch.optim.optimizer"]
        inner.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [DEVICE.type])
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
