"""A device that is not the CPU and needs no hardware: its tensors hold memory of the CPU and do not mix with the CPU's."""

import contextlib

import torch
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

DEVICE = torch.device("vulkan", 0)  # any name that torch looks up no driver for
aten = torch.ops.aten
# As on a GPU, these take tensors of the CPU as well; of indexing, the indices.
CROSSING = {aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_}


class OtherTensor(torch.Tensor):
    """Tensor on the other device; `value` is the CPU's tensor behind it."""

    @staticmethod
    def __new__(cls, value):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device="meta",  # to torch's own C++ code: neither the CPU nor a GPU that it could look for
        )

    def __init__(self, value):
        self.value = value

    @property
    def device(self):
        return DEVICE

    def tolist(self):
        return self.value.tolist()

    def __format__(self, spec):
        return format(self.value.detach(), spec)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """Inside, new tensors may be asked for on the other device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """Run an operator on the CPU's memory, if a GPU would run it; look into operators written in Python."""
    if func.namespace == "deepmd_gnn":
        with OtherDevice():
            return OPDEFS[func.name()]._init_fn(*args, **kwargs)
    tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
    others = [value for value in tensors if isinstance(value, OtherTensor)]
    if any(value.is_meta and not isinstance(value, OtherTensor) for value in tensors):
        raise RuntimeError(f"{func}: a list as index, whose numbers torch gives to real devices only")
    if others and func.overloadpacket not in CROSSING:
        foreign = [value for value in tensors if not isinstance(value, OtherTensor) and value.dim() > 0]
        if foreign:
            raise RuntimeError(
                f"{func}: a tensor of the CPU, shape {tuple(foreign[0].shape)}, among the device's"
            )
    asked = kwargs.get("device")
    on_device = bool(others) if asked is None else torch.device(asked).type in (DEVICE.type, "meta")
    if func.overloadpacket in (aten.copy_, aten.index, aten.index_put, aten.index_put_):
        on_device = isinstance(args[0], OtherTensor)
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    wrappers = {id(other.value): other for other in others}
    results = func(*tree_map(inner, args), **tree_map(inner, kwargs))

    def outer(value):
        if not isinstance(value, torch.Tensor) or not on_device:
            return value
        changed_in_place = wrappers.get(id(value))
        return OtherTensor(value) if changed_in_place is None else changed_in_place

    return tree_map(outer, results)


def inner(value):
    return value.value if isinstance(value, OtherTensor) else value


def to_device(value):
    """Move the tensors of nested tuples, lists and dictionaries."""
    return tree_map(lambda leaf: OtherTensor(leaf) if isinstance(leaf, torch.Tensor) else leaf, value)


to_cpu = inner


def to_other_device(module):
    """Move a module's parameters and buffers, those that are there already excepted."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.device != DEVICE:
                moved = torch.nn.Parameter(OtherTensor(parameter.detach()), parameter.requires_grad)
                part._parameters[name] = moved
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.device != DEVICE:
                part._buffers[name] = OtherTensor(buffer)
    return module


@contextlib.contextmanager
def other_device(monkeypatch):
    """DeePMD-kit's default device is the other one."""
    from deepmd.pt.utils import env

    with monkeypatch.context() as patch, OtherDevice():
        patch.setattr(env, "DEVICE", DEVICE)
        # Else torch.tensor(..., device=...) moves its numbers without asking.
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            yield
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
