"""A model as plain data, in the form that DeePMD-kit carries from one backend to another."""

from collections.abc import Callable
from typing import Any, TypeVar

from deepmd.pt.utils.utils import to_numpy_array, to_torch_tensor

from deepmd_gnn.config.described import OPTION_TENSORS
from deepmd_gnn.config.versions import newer_writer
from deepmd_gnn.files.portable import with_arrays
from deepmd_gnn.files.tensor_names import model_name
from deepmd_gnn.host.interface import HostInterface
from deepmd_gnn.host.stored_adapters import PREFIX

# Of serialize(): goes up when older versions of this package would misread it.
FORMAT = 1
Model = TypeVar("Model", bound=HostInterface)


def definition(model: HostInterface) -> dict[str, Any]:
    """The model section that builds a model like this one."""
    return {
        "type": model.type_name,
        "type_map": model.type_map,
        "pair_exclude_types": model.pair_exclude_types,
        "atom_exclude_types": model.atom_exclude_types,
        # Whole weights need no adapters.
        **{key: value for key, value in model.config.to_dict().items() if key != "adapters"},
    }


def serialized(model: HostInterface) -> dict[str, Any]:
    """Everything that rebuilds a model, in the host's portable format."""
    return {
        "@class": "Model",
        "@version": FORMAT,
        "@versions": model.versions,
        **definition(model),
        # The option tensors repeat what stands above.
        "@variables": {
            name: to_numpy_array(value)
            for name, value in model.state_dict().items()
            if model_name(name) not in OPTION_TENSORS and not name.startswith(PREFIX)
        },
    }


def rebuilt(model_class: Callable[..., Model], data: dict[str, Any]) -> Model:
    """Rebuild a model from :func:`serialized`.

    Parameters
    ----------
    model_class : Callable
        Of the model.
    data : dict[str, Any]
        Perhaps by way of a file.

    Returns
    -------
    GraphModel
        An instance of `model_class`.

    Raises
    ------
    ValueError
        If a newer version wrote it in a format that this one does not know.
    """
    newer = newer_writer(data.get("@versions"))
    if newer and data.get("@version", 1) > FORMAT:
        raise ValueError(
            f"{data.get('type', 'mace')} model: this file {newer}. (Its format is {data['@version']}.)"
        )
    variables = with_arrays(data)["@variables"]
    options = {key: value for key, value in data.items() if key[0] != "@" and key != "type"}
    model = model_class(**options, info={"versions": data.get("@versions")})
    model.load_state_dict({name: to_torch_tensor(value) for name, value in variables.items()})
    return model
