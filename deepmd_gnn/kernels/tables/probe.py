"""Energies and forces of probe atoms: what radial tables change in them, and whether a frozen file has the model's."""

from typing import Any, NamedTuple

import torch

from deepmd_gnn.kernels.tables.lookup import Tables

# eV per atom, eV/Å, and relative to the largest: random weights can make forces of thousands of eV/Å.
LARGEST = {torch.float64: (1e-9, 1e-8, 1e-10), torch.float32: (1e-5, 1e-5, 1e-5)}
ATOMS = 64


class Difference(NamedTuple):
    """Largest differences on the probe atoms."""

    energy: float
    """eV per atom."""
    force: float
    """eV/Å."""
    largest: float
    """Largest force (eV/Å) or interaction energy (eV) itself."""

    def acceptable(self, dtype: torch.dtype, slack: float = 1.0) -> bool:
        """Whether they are as small as the precision of the network asks for, or `slack` times as large."""
        energy, force, relative = (slack * limit for limit in LARGEST[dtype])
        most = relative * self.largest
        return self.energy <= max(energy, most) and self.force <= max(force, most)


def difference(model: Any, tables: Tables) -> Difference:
    """Evaluate a cluster of all elements with radial networks and with tables.

    Parameters
    ----------
    model : MaceModel
        In eval mode, on the CPU.
    tables : Tables
        Its tables.

    Returns
    -------
    Difference
    """
    coord, atype = probe_atoms(len(model.get_type_map()), model.get_rcut())
    values = model.frame_values.anything(coord.device)
    exact = model(coord, atype, fparam=values)
    with tables.installed(model.energy_model):
        tabulated = model(coord, atype, fparam=values)
    return compared(tabulated, exact, model.out_bias[0][atype[0]])


def compared(
    found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor], isolated: torch.Tensor
) -> Difference:
    """Compare energies and forces of one frame.

    Parameters
    ----------
    found, exact : dict[str, torch.Tensor]
        With ``atom_energy`` (1, natom, 1) in eV and ``force`` (1, natom, 3) in eV/Å.
    isolated : torch.Tensor
        E0 of the atoms, eV, shape (natom, 1).

    Returns
    -------
    Difference
    """
    energy, force = (float((found[name] - exact[name]).abs().max()) for name in ("atom_energy", "force"))
    interaction = exact["atom_energy"][0] - isolated
    return Difference(energy, force, float(max(exact["force"].abs().max(), interaction.abs().max())))


def probe_atoms(ntypes: int, r_max: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Disturbed cubic lattice, neighbours at 0.2 to 0.6 of the cutoff and beyond, every element among the atoms.

    Parameters
    ----------
    ntypes : int
        Number of elements.
    r_max : float
        Cutoff, Å.

    Returns
    -------
    coord, atype : torch.Tensor
        Å and types, shapes (1, natom, 3) and (1, natom), on the CPU.
    """
    side = 4
    while side**3 < max(ATOMS, 2 * ntypes):
        side += 1
    generator = torch.Generator("cpu").manual_seed(0)
    line = torch.arange(side, dtype=torch.float64, device="cpu")
    lattice = torch.cartesian_prod(line, line, line)
    jitter = torch.rand(lattice.shape, generator=generator, dtype=torch.float64, device="cpu") - 0.5
    atype = torch.randperm(len(lattice), generator=generator, device="cpu") % ntypes
    return ((0.4 * lattice + 0.2 * jitter) * r_max).unsqueeze(0), atype.unsqueeze(0)
