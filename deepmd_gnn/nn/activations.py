"""Non-linearities by name."""

import torch


def activate(inputs: torch.Tensor, gate: str) -> torch.Tensor:
    """Apply one of :data:`~deepmd_gnn.config.mace.GATES`.

    Parameters
    ----------
    inputs : torch.Tensor
        Any shape.
    gate : str
        Name of the function.

    Returns
    -------
    torch.Tensor
        The same shape.
    """
    if gate == "silu":
        return torch.nn.functional.silu(inputs)
    if gate == "tanh":
        return torch.tanh(inputs)
    if gate == "abs":
        return torch.abs(inputs)
    if gate == "elu":
        return torch.nn.functional.elu(inputs)
    if gate == "relu":
        return torch.relu(inputs)
    if gate == "sigmoid":
        return torch.sigmoid(inputs)
    return inputs


def gain_of(gate: str) -> float:
    """Factor that gives a non-linearity unit second moment for normally distributed inputs, by quadrature."""
    x = torch.linspace(-12.0, 12.0, 240001, dtype=torch.float64, device="cpu")
    density = torch.exp(-0.5 * x.square())
    moment = (activate(x, gate).square() * density).sum() / density.sum()
    return float(moment**-0.5)
