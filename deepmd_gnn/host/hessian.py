"""Second derivatives of the energy, for the host's Hessian loss and for checkpoints trained with it."""

from collections.abc import Callable

import torch


def hessian(
    evaluate: Callable[[torch.Tensor], dict[str, torch.Tensor]], coord: torch.Tensor, training: bool
) -> dict[str, torch.Tensor]:
    """Evaluate frames, second derivatives included: one backward pass per coordinate.

    Parameters
    ----------
    evaluate : Callable
        From coordinates to the public results of a model, ``force`` among them.
    coord : torch.Tensor
        Å, shape (nf, nloc, 3) or (nf, nloc * 3).
    training : bool
        Whether the results will be differentiated once more.

    Returns
    -------
    dict[str, torch.Tensor]
        Results, and ``hessian``, eV/Å², shape (nf, 3 nloc, 3 nloc).
    """
    nf = coord.shape[0]
    with torch.enable_grad():
        position = coord.detach().reshape(nf, -1, 3).requires_grad_(True)
        result = evaluate(position)
        force = result["force"].reshape(nf, -1)
        # Frames do not see each other, so that one pass serves all of them.
        rows = [
            torch.autograd.grad(-force[:, k].sum(), position, create_graph=training, retain_graph=True)[
                0
            ].reshape(nf, -1)
            for k in range(force.shape[1])
        ]
        result["hessian"] = torch.stack(rows, dim=1)
    return result if training else {key: value.detach() for key, value in result.items()}
