"""Paths of modules from before the package had rooms, which scripts may import: docs/api.md promised them."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "deepmd_gnn.checks": "deepmd_gnn.tools.checks",
    "deepmd_gnn.committees": "deepmd_gnn.native.committees",
    "deepmd_gnn.conversion": "deepmd_gnn.native.conversion",
    "deepmd_gnn.freeze_command": "deepmd_gnn.host.freeze",
    "deepmd_gnn.model_summary": "deepmd_gnn.files.summary",
    "deepmd_gnn.native_export": "deepmd_gnn.native.writer",
    "deepmd_gnn.native_import": "deepmd_gnn.native.reader",
    "deepmd_gnn.structures": "deepmd_gnn.tools.structures",
}


class _Moved(MetaPathFinder, Loader):
    """Finds a module under its old path: the same module object as under the new one."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - Python's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(MOVED[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it has been executed."""


def keep_old_paths() -> None:
    """Let old paths be imported, after everything that is really there."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
