"""Lists of modules that say what is in them, for mypy. When the program runs they are torch's own, which TorchScript knows."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

Item = TypeVar("Item", bound=torch.nn.Module)

if TYPE_CHECKING:

    class ModuleList(torch.nn.ModuleList, Generic[Item]):
        """``torch.nn.ModuleList`` of modules of one type."""

        def __init__(self, modules: Iterable[Item]) -> None: ...

        def __iter__(self) -> Iterator[Item]: ...

        # torch's own also takes slices, which nobody needs here.
        def __getitem__(self, index: int) -> Item: ...  # type: ignore[override]

else:
    ModuleList = torch.nn.ModuleList
