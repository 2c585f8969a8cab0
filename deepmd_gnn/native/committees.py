"""Several models of the same elements, whatever the order of their type maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepmd_gnn.graph.input_checks import check_types
from deepmd_gnn.host.inference_graphs import refuse_types

if TYPE_CHECKING:
    from deepmd.infer import DeepPot


class _WithTypesOf:
    """A :class:`deepmd.infer.DeepPot` that takes the type numbers of another one.

    Parameters
    ----------
    model : DeepPot
        The model.
    type_map : list[str]
        Names that the numbers stand for.
    """

    def __init__(self, model: "DeepPot", type_map: list[str]) -> None:
        self._model = model
        self._type_map = type_map
        own = model.get_type_map()
        self._own_types = np.array([own.index(name) for name in type_map])

    def eval(self, coords: Any, cells: Any, atom_types: Any, *args: Any, **options: Any) -> Any:
        """Evaluate frames; as DeepPot's method of this name."""
        return self._model.eval(coords, cells, self._translated(atom_types), *args, **options)

    def eval_descriptor(self, coords: Any, cells: Any, atom_types: Any, *args: Any, **options: Any) -> Any:
        """Features of the atoms; as DeepPot's method of this name."""
        return self._model.eval_descriptor(coords, cells, self._translated(atom_types), *args, **options)

    def eval_fitting_last_layer(
        self, coords: Any, cells: Any, atom_types: Any, *args: Any, **options: Any
    ) -> Any:
        """Last hidden layer of the readout; as DeepPot's method of this name."""
        return self._model.eval_fitting_last_layer(
            coords, cells, self._translated(atom_types), *args, **options
        )

    def _translated(self, atom_types: Any) -> Any:
        """The model's own numbers for types, which are checked as it would check them."""
        refuse_types(atom_types, self._type_map)
        types = np.asarray(atom_types).astype(int)
        check_types(torch.as_tensor(types), self._type_map)
        return np.where(types < 0, types, self._own_types[types])

    def get_ntypes(self) -> int:
        """Number of types that this object takes."""
        return len(self._type_map)

    def get_type_map(self) -> list[str]:
        """Names of the types that this object takes."""
        return list(self._type_map)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def committee(files: Sequence[str | Path]) -> list[Any]:
    """Load models that are evaluated on the same atoms.

    Type numbers mean the elements of the first file for all of them, so that one array of types serves all:
    DeePMD-kit's own functions for several models take one array of types.

    Parameters
    ----------
    files : sequence of str or Path
        Model files of any kind.

    Returns
    -------
    list
        One :class:`deepmd.infer.DeepPot` per file, or an object that behaves as one.

    Raises
    ------
    ValueError
        If there is no file, or a model lacks an element of the first.
    """
    from deepmd.infer import DeepPot

    if not files:
        raise ValueError("committee: no files; give at least one model.")
    models = [DeepPot(str(file)) for file in files]
    type_map = models[0].get_type_map()
    for file, model in zip(files, models, strict=True):
        if missing := [name for name in type_map if name not in model.get_type_map()]:
            raise ValueError(
                f"committee: {file} has type_map {model.get_type_map()}, but {files[0]} has {type_map}: {', '.join(missing)} "
                "missing. Give models of the same elements, the one with the fewest first."
            )
    return [model if model.get_type_map() == type_map else _WithTypesOf(model, type_map) for model in models]
