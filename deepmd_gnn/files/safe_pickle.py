"""Read torch files without executing anything in them.

A pickle can call any function it names. Here only the builders of tensors are functions; every other name in a file
(mace, e3nn, ``torch.fx``, ``os.system``) becomes an inert :class:`Record` that remembers its name, arguments and state.
"""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from deepmd_gnn.files.archives import Archive, FileError, opened

_STORAGES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
# Numbers that one stored number may stand for.
_REPEATED = 4096
# Numbers of tensors that share storages, beyond one for each byte of the file.
_SHARED = 2**24
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


class Record:
    """An object of a file whose class was not imported; accepts whatever the pickle does to it."""

    qualname = ""
    """Module and name of the class or function in the file."""

    arguments: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __new__(cls, *arguments: Any, **keywords: Any) -> "Record":  # noqa: D102
        record = super().__new__(cls)
        record.arguments = (*arguments, keywords) if keywords else arguments
        record.state = None
        record.items = []
        return record

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> "Record":
        """Make a record of a call."""
        return type(self)(*arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """Keep an element of a list-like object."""
        self.items.append(value)

    add = append

    def extend(self, values: Any) -> None:
        """Keep elements of a list-like object."""
        self.items.extend(values)

    @property
    def name(self) -> str:
        """Name of the class without its module."""
        return self.qualname.rpartition(".")[2]


class _Builder:
    """A function the pickle may call; unlike a plain function it cannot be given attributes by the pickle."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"the file tries to change a function ({name})")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the file tries to change a function")


def _parameter(tensor: torch.Tensor, *rest: Any) -> torch.Tensor:  # noqa: ARG001
    return tensor


def _typed_tensor(function: Any, kind: Any, arguments: Any, state: Any) -> Any:  # noqa: ARG001
    return function(*arguments)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unexpected encoding {encoding!r}")
    return text.encode(encoding)


class _NumberType:
    """A little-endian number type of NumPy; its state in the file only repeats the byte order."""

    def __init__(self, name: str, *rest: Any) -> None:  # noqa: ARG002
        if name not in ("f8", "f4", "i8", "i4", "u8", "b1"):
            raise pickle.UnpicklingError(f"unexpected dtype {name!r}")
        self.name = name

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            raise pickle.UnpicklingError("big-endian numbers")


def _numpy_scalar(kind: Any, data: bytes = b"") -> Any:
    return np.frombuffer(data, dtype=kind.name)[0].item()


class NumberArray:
    """A NumPy array of numbers."""

    value: "np.ndarray[Any, Any]"
    """The array."""

    def __init__(self, *arguments: Any) -> None:  # noqa: ARG002 - the array follows as its state
        self.value = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        flat = np.frombuffer(data, dtype=kind.name)
        self.value = flat.reshape(shape[::-1]).transpose() if fortran else flat.reshape(shape)


def _torch_size(values: Any = ()) -> tuple[int, ...]:
    return tuple(values)


def _ordered(pairs: Any = ()) -> "OrderedDict[Any, Any]":
    for key, _ in pairs:
        _check_key(key)
    return OrderedDict(pairs)


def _check_key(key: Any) -> None:
    """Admit keys of a dictionary; the hash of nested tuples that share parts would take for ever."""
    if isinstance(key, tuple) and any(isinstance(part, tuple) for part in key):
        raise pickle.UnpicklingError("a dictionary has nested tuples as keys")


_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch.Size": _torch_size,
    "torch.jit._pickle.build_intlist": list,
    "torch.jit._pickle.build_doublelist": list,
    "torch.jit._pickle.build_boollist": list,
    "torch.jit._pickle.build_tensorlist": list,
    "torch.jit._pickle.restore_type_tag": _parameter,
    "collections.OrderedDict": _ordered,
    "_codecs.encode": _encode,
    "numpy.dtype": _NumberType,
    "numpy.core.multiarray._reconstruct": NumberArray,
    "numpy._core.multiarray._reconstruct": NumberArray,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}


class _Unpickler(pickle._Unpickler):
    """Admits builders of tensors; everything else becomes a record.

    Python's own unpickler, not that in C: a few bytes make the latter allocate gigabytes for numbers it is to remember,
    and it asks nobody before it changes an object or hashes a key.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(
        self, data: bytes, storage: Callable[[str, torch.dtype, int], torch.Tensor], size: int
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._storage = storage
        self._numbers, self._most = 0, _SHARED + size
        self._classes: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self._classes:
            if full in _TENSORS:
                self._classes[full] = _Builder(self._tensor)
            elif full in _BUILDERS:
                self._classes[full] = _Builder(_BUILDERS[full])
            elif module == "torch" and name in _STORAGES:
                self._classes[full] = _STORAGES[name]
            elif module == "torch" and name in _DTYPES:
                self._classes[full] = getattr(torch, name)
            else:
                self._classes[full] = type("Record", (Record,), {"qualname": full})
        return self._classes[full]

    def persistent_load(self, identifier: Any) -> torch.Tensor:
        kind, dtype, key, _, count = identifier[:5]
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, (str, int)):
            raise pickle.UnpicklingError("unexpected reference to data")
        return self._storage(str(key), dtype, int(count))

    def _tensor(self, storage: torch.Tensor, offset: int, size: Any, stride: Any, *rest: Any) -> torch.Tensor:  # noqa: ARG002
        numbers = math.prod(size)
        self._numbers += numbers
        # A stride of 0 makes a tensor of any size from one number, and a storage can have any number of tensors.
        if numbers > max(len(storage), _REPEATED) or self._numbers > self._most:
            raise pickle.UnpicklingError("its tensors are larger than what is stored")
        return torch.as_strided(storage, tuple(size), tuple(stride), offset)  # refuses what lies outside

    def _build(self) -> None:
        target, state = self.stack[-2], self.stack.pop()
        if isinstance(target, (Record, NumberArray, _NumberType, _Builder)):
            target.__setstate__(state)
        # The state of an ordered dictionary is torch's note of versions.
        elif not isinstance(target, OrderedDict):
            raise pickle.UnpicklingError(f"the file tries to change a {type(target).__name__}")

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("the file holds byte arrays")

    def _set(self) -> None:
        items = self.pop_mark()
        for item in items:
            _check_key(item)
        self.stack[-1].update(items)

    def _frozen_set(self) -> None:
        items = self.pop_mark()
        for item in items:
            _check_key(item)
        self.append(frozenset(items))

    def _items(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            _check_key(key)
            target[key] = value

    def _item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _check_key(key)
        self.stack[-1][key] = value

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        for key, value in zip(items[::2], items[1::2], strict=True):
            _check_key(key)
            self.stack[-1][key] = value

    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.SETITEM[0]] = _item
    dispatch[pickle.SETITEMS[0]] = _items
    dispatch[pickle.DICT[0]] = _dict
    dispatch[pickle.ADDITEMS[0]] = _set
    dispatch[pickle.FROZENSET[0]] = _frozen_set
    dispatch[pickle.BYTEARRAY8[0]] = _refuse


_ADVICE = (
    "Give a .model, a compiled .model or a training checkpoint of MACE, written by torch 1.6 or newer (older ones: see "
    "--trust)."
)


class TorchFile:
    """A file of ``torch.save`` or ``torch.jit.save``, read as plain data.

    Parameters
    ----------
    path : str or Path
        The file.
    data : bytes, optional
        Its bytes, if they are not to be read from `path`.

    Raises
    ------
    FileError
        If the file is no such archive, truncated, or holds something else than plain data and records.
    """

    def __init__(self, path: str | Path, data: bytes | None = None) -> None:
        self.path = Path(path)
        with opened(self.path, data, _ADVICE) as archive:
            try:
                self._read(archive)
            except FileError:
                raise
            except Exception as error:  # whatever a hostile file makes pickle or torch raise
                raise FileError(
                    f"{self.path}: cannot be read as a file of PyTorch ({type(error).__name__}: {error})."
                ) from error

    def _read(self, archive: Archive) -> None:
        names = archive.names
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise FileError(f"{self.path} is a zip archive, but not one of PyTorch: it has no data.pkl.")
        root = pickles[0][: -len("data.pkl")]
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise FileError(f"{self.path} was written on a big-endian machine, which is not supported.")
        self.is_torchscript = any(name.startswith(f"{root}code/") for name in names)
        self.code = {
            name[len(root) + len("code/") :]: archive.read(name).decode()
            for name in names
            if name.startswith(f"{root}code/") and name.endswith(".py")
        }
        storages: dict[str, torch.Tensor] = {}

        def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
            if key not in storages:
                data = bytearray(archive.read(f"{root}data/{key}"))
                storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            if storages[key].dtype != dtype or len(storages[key]) < count:
                raise pickle.UnpicklingError(f"storage {key} is shorter than announced")
            return storages[key]

        self.content = _Unpickler(archive.read(pickles[0]), storage, archive.size).load()


def records_in(content: Any) -> Iterator[Record]:
    """All records in the content of a file.

    Parameters
    ----------
    content : Any
        Content or part of it; may contain itself.

    Yields
    ------
    Record
        Each once.
    """
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Record):
            yield value
            waiting += [value.arguments, value.state, value.items]
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
