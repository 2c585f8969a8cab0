"""Names of a model's tensors in checkpoints: the host's words for its parts, native MACE's names below them.

The host asks the names what belongs to the features (``.descriptor.``) when ``--model-branch RANDOM`` starts a new
head and when it counts parameters. No torch here.
"""

NETWORK = "energy_model."
_FITTING = ("readouts.", "embedding_readout.", "partial_charges.", "scale")
# Not in the network, but each with its part of it.
_OPTIONS = {"network_options": "descriptor.options", "readout_options": "fitting_net.options"}


def stored_name(name: str) -> str:
    """Name in a checkpoint of a tensor of the model, without prefix.

    Parameters
    ----------
    name : str
        E.g. ``energy_model.readouts.0.linear.weight``.

    Returns
    -------
    str
        E.g. ``fitting_net.readouts.0.linear.weight``.
    """
    if not name.startswith(NETWORK):
        return _OPTIONS.get(name, name)
    inner = name.removeprefix(NETWORK)
    return ("fitting_net." if inner.startswith(_FITTING) else "descriptor.") + inner


def model_name(name: str) -> str:
    """Inverse of :func:`stored_name`; names of the model itself, as in TorchScript files, stay."""
    for option, stored in _OPTIONS.items():
        if name == stored:
            return option
    for part in ("descriptor.", "fitting_net."):
        if name.startswith(part):
            return NETWORK + name.removeprefix(part)
    return name
