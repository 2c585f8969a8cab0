"""The dictionaries that a model returns: the host's internal names, and the public ones made from them."""

import torch


def internal_results(
    energy: torch.Tensor,
    force: torch.Tensor,
    atom_virial: torch.Tensor,
    total_energy: torch.Tensor,
    total_virial: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Name results as DeePMD-kit does inside: derivatives have an axis for the one energy, before the last.

    Parameters
    ----------
    energy, force, atom_virial : torch.Tensor
        Of atoms: eV, eV/Å and eV, shapes (…, 1), (…, 3) and (…, 9).
    total_energy, total_virial : torch.Tensor
        Of frames, eV, shapes (nf, 1) and (nf, 9).

    Returns
    -------
    dict[str, torch.Tensor]
        ``energy``, ``energy_redu``, ``energy_derv_r``, ``energy_derv_c`` and ``energy_derv_c_redu``.
    """
    return {
        "energy": energy,
        "energy_redu": total_energy,
        "energy_derv_r": force.unsqueeze(-2),
        "energy_derv_c": atom_virial.unsqueeze(-2),
        "energy_derv_c_redu": total_virial.unsqueeze(-2),
    }


def results_of_frames(
    energy: torch.Tensor, force: torch.Tensor, atom_virial: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Sum over the atoms of each frame, and name.

    Parameters
    ----------
    energy, force, atom_virial : torch.Tensor
        Of atoms: eV, eV/Å and eV, shapes (nf, nloc, 1), (nf, nall, 3) and (nf, nall, 9).

    Returns
    -------
    dict[str, torch.Tensor]
        See :func:`internal_results`.
    """
    return internal_results(energy, force, atom_virial, energy.sum(dim=1), atom_virial.sum(dim=1))


def mask_of(atype: torch.Tensor) -> torch.Tensor:
    """Which atoms are real, int32, the shape of their types."""
    return (atype >= 0).to(torch.int32)


def public_results(
    inner: dict[str, torch.Tensor], mask: torch.Tensor, prefix: str, do_atomic_virial: bool
) -> dict[str, torch.Tensor]:
    """Rename for ``forward`` and ``forward_lower``, as the host's energy models do.

    Parameters
    ----------
    inner : dict[str, torch.Tensor]
        From :func:`internal_results`.
    mask : torch.Tensor
        From :func:`mask_of`, shape (nf, nloc).
    prefix : str
        ``""`` for atoms, ``"extended_"`` for atoms and ghosts.
    do_atomic_virial : bool
        Whether with the virial of each atom.

    Returns
    -------
    dict[str, torch.Tensor]
        ``atom_energy`` (nf, nloc, 1) and ``energy`` (nf, 1) in eV, ``[extended_]force`` (nf, nall, 3) in eV/Å,
        ``virial`` (nf, 9) in eV, ``mask`` and perhaps ``atom_virial`` or ``extended_virial`` (nf, nall, 9) in eV.
    """
    result = {
        "atom_energy": inner["energy"],
        "energy": inner["energy_redu"],
        prefix + "force": inner["energy_derv_r"].squeeze(-2),
        "virial": inner["energy_derv_c_redu"].squeeze(-2),
        "mask": mask,
    }
    if do_atomic_virial:
        name = "extended_virial" if prefix == "extended_" else "atom_virial"
        result[name] = inner["energy_derv_c"].squeeze(-2)
    return result
