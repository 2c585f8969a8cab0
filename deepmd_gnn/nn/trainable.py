"""Parts of a network that training leaves as they are."""

import torch


def freeze_parts(network: torch.nn.Module, names: list[str] | None) -> None:
    """Take parameters out of the training.

    Parameters
    ----------
    network : torch.nn.Module
        The network.
    names : list[str], optional
        Beginnings of parameter names, whole words between dots: ``interactions`` or ``interactions.0.linear``.

    Raises
    ------
    ValueError
        If a name fits no parameter, or nothing would be left to train.
    """
    for name in names or []:
        parts = name.split(".")
        found = [p for key, p in network.named_parameters() if key.split(".")[: len(parts)] == parts]
        if not found:
            known = sorted({key.split(".")[0] for key, _ in network.named_parameters()})
            raise ValueError(
                f"mace model: 'freeze' names {name!r}, but no parameter begins so. "
                f"Parts of the network: {', '.join(known)}; layers are numbered from 0, e.g. interactions.0."
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if names and not any(p.requires_grad for p in network.parameters()):
        raise ValueError(
            f"mace model: 'freeze' is {names}, which leaves nothing to train. "
            "To fit only the atomic energies use `dp change-bias`."
        )
