"""DeePMD-kit's operators: features of atoms that live on another rank."""

import ctypes
import os

import torch

from deepmd_gnn.graph.edge_sums import rows_between

# MPICH's and Open MPI's library, by the names under which they are loaded.
_MPI_LIBRARIES = ("libmpi.so.12", "libmpi.so.40")


class Exchange(torch.nn.Module):
    """The host's exchange of features between ranks: by ``border_op``, scripted or exported; nothing on one rank.

    A module without parameters, so that another one can be plugged into a network.
    """

    def forward(
        self, features: torch.Tensor, nsender: int, comm_dict: dict[str, torch.Tensor] | None
    ) -> torch.Tensor:
        """Give every sender its features.

        Parameters
        ----------
        features : torch.Tensor
            Features of the guard and the owned atoms, shape (nnode, dim), float32 or float64.
        nsender : int
            Guard, owned atoms and ghosts.
        comm_dict : dict[str, torch.Tensor], optional
            The host's communication tensors, see DeePMD-kit's ``border_op``. None if ghosts are folded onto their
            owners: then nodes and senders are the same.

        Returns
        -------
        torch.Tensor
            Shape (nsender, dim).

        Raises
        ------
        ValueError
            If the communication lists do not bring every ghost.
        """
        if comm_dict is None:
            return features
        nnode = features.shape[0]
        nowned, nghost = nnode - 1, nsender - nnode
        # border_op wants a fresh contiguous matrix: it writes the ghosts' rows into its argument.
        rows = torch.cat([rows_between(features, 1, nnode), features.new_zeros(nghost, features.shape[1])])
        if not torch.jit.is_scripting() and "nlocal" in comm_dict:  # type: ignore[attr-defined]
            return torch.cat([features[:1], _exported_border_op(rows, comm_dict)])
        check_lists(comm_dict, nghost)
        cpu = torch.device("cpu")
        filled = torch.ops.deepmd.border_op(
            comm_dict["send_list"],
            comm_dict["send_proc"],
            comm_dict["recv_proc"],
            comm_dict["send_num"],
            comm_dict["recv_num"],
            rows,
            comm_dict["communicator"],
            torch.tensor(nowned, dtype=torch.int32, device=cpu),
            torch.tensor(nghost, dtype=torch.int32, device=cpu),
        )[0]
        return torch.cat([features[:1], filled])


def check_lists(comm_dict: dict[str, torch.Tensor], nghost: int) -> None:
    """Refuse communication lists that do not bring every ghost, before they are followed.

    Parameters
    ----------
    comm_dict : dict[str, torch.Tensor]
        The host's communication tensors; ``recv_num`` has the ghosts of every message, int32, shape (nmessage,).
    nghost : int
        Ghosts of this rank.

    Raises
    ------
    ValueError
        If the numbers differ, as with LAMMPS' tiled communication, whose lists the host misreads.
    """
    received = int(comm_dict["recv_num"].sum())
    if received != nghost:
        raise ValueError(
            f"mace model: the host's communication lists bring {received} ghosts, but this rank has {nghost}. In "
            "LAMMPS use comm_style brick; pair_style deepmd does not support comm_style tiled."
        )


def refuse_started_mpi() -> None:
    """Refuse to trace a program for several ranks in a process that has started MPI: the host's sample names no communicator.

    ``border_op`` takes it for one as soon as MPI is there, and MPI ends the process.

    Raises
    ------
    RuntimeError
        If MPI was started, also if it was ended since.
    """
    started = ctypes.c_int(0)
    for name in _MPI_LIBRARIES:
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:
            continue
        library.MPI_Initialized(ctypes.byref(started))
        if started.value:
            raise RuntimeError(
                "mace model: this process has started MPI (LAMMPS inside Python, mpi4py), and DeePMD-kit's trial of the exchange between "
                "ranks would end it. Freeze to .pt2 or .pte in a process of its own: dp --pt-expt freeze, or deepmd-gnn freeze."
            )


def refuse_ranks(comm_dict: dict[str, torch.Tensor]) -> None:
    """Refuse more than one rank where a sum over all atoms is needed, which the host's exchange of ghosts cannot make.

    Parameters
    ----------
    comm_dict : dict[str, torch.Tensor]
        The host's communication tensors; ``send_proc`` and ``recv_proc`` have the other rank of each message, int32, shape (nmessage,).
        One rank alone has number 0 and exchanges with nobody else.

    Raises
    ------
    ValueError
        If there are several.
    """
    if bool((comm_dict["send_proc"] != 0).any()) or bool((comm_dict["recv_proc"] != 0).any()):
        raise ValueError(
            "mace model: a model with use_coulomb_term runs on one rank only: charges are shifted to the exact total charge, a "
            "sum over all atoms that DeePMD-kit's exchange between ranks does not offer. Run one rank (with threads)."
        )


@torch.jit.unused
def _exported_border_op(rows: torch.Tensor, comm_dict: dict[str, torch.Tensor]) -> torch.Tensor:
    """Exchange in the exportable backend, whose operator can be traced and takes the counts from the host."""
    lists = [comm_dict[key] for key in ("send_list", "send_proc", "recv_proc", "send_num", "recv_num")]
    counts = [comm_dict[key] for key in ("communicator", "nlocal", "nghost")]
    return torch.ops.deepmd_export.border_op(*lists, rows, *counts)
