"""A model as plain data, in the form that DeePMD-kit carries from one backend to another."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from deepmd.pt.utils import env
from deepmd.pt.utils.utils import to_numpy_array, to_torch_tensor

from deepmd_gnn.config.versions import newer_writer
from deepmd_gnn.files.tensor_names import model_name
from deepmd_gnn.host.stored_options import OPTION_TENSORS, options_of, pack

if TYPE_CHECKING:
    from deepmd_gnn.config.mace import MaceConfig

# Of serialize(): goes up when older versions of this package would misread it.
FORMAT = 1


def with_arrays(data: dict[str, Any]) -> dict[str, Any]:
    """A serialised model whose variables are arrays; HDF5 (``.dp``) gives those without axes back as numbers.

    Parameters
    ----------
    data : dict[str, Any]
        From :meth:`StorageMixin.serialize`, perhaps by way of a file.

    Returns
    -------
    dict[str, Any]
        Shares everything else with `data`.
    """
    return {
        **data,
        "@variables": {name: np.asarray(value) for name, value in data["@variables"].items()},
    }


class StorageMixin:
    """Part of :class:`~deepmd_gnn.mace.MaceModel` that writes and rebuilds it."""

    if TYPE_CHECKING:
        type_map: list[str]
        config: MaceConfig
        versions: dict[str, str]
        pair_exclude_types: list[list[int]]
        atom_exclude_types: list[int]
        register_buffer: Callable[..., None]
        state_dict: Callable[[], dict[str, Any]]
        load_state_dict: Callable[[dict[str, Any]], Any]

        def __init__(self, **options: Any) -> None: ...

    def _definition(self) -> dict[str, Any]:
        return {
            "type": "mace",
            "type_map": self.type_map,
            "pair_exclude_types": self.pair_exclude_types,
            "atom_exclude_types": self.atom_exclude_types,
            **self.config.to_dict(),
        }

    def set_option_tensors(self) -> None:
        """Keep the options beside the weights, for those who load them (:mod:`~deepmd_gnn.host.stored_options`)."""
        described = options_of(self.config, self.type_map, self.pair_exclude_types, self.atom_exclude_types)
        for name, options in described.items():
            self.register_buffer(name, pack(options).to(env.DEVICE))

    def serialize(self) -> dict[str, Any]:
        """Everything that rebuilds this model, in the host's portable format."""
        return {
            "@class": "Model",
            "@version": FORMAT,
            "@versions": self.versions,
            **self._definition(),
            # The option tensors repeat what stands above.
            "@variables": {
                name: to_numpy_array(value)
                for name, value in self.state_dict().items()
                if model_name(name) not in OPTION_TENSORS
            },
        }

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> "StorageMixin":
        """Rebuild a model from :meth:`serialize`.

        Raises
        ------
        ValueError
            If a newer version wrote it in a format that this one does not know.
        """
        newer = newer_writer(data.get("@versions"))
        if newer and data.get("@version", 1) > FORMAT:
            raise ValueError(f"mace model: this file {newer}. (Its format is {data['@version']}.)")
        variables = with_arrays(data)["@variables"]
        options = {key: value for key, value in data.items() if key[0] != "@" and key != "type"}
        model = cls(**options, info={"versions": data.get("@versions")})
        model.load_state_dict({name: to_torch_tensor(value) for name, value in variables.items()})
        return model
