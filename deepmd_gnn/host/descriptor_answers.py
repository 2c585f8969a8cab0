"""What DeePMD-kit asks a descriptor about itself: the base of :class:`~deepmd_gnn.host.descriptor.GraphDescriptor`; the names are the host's."""

from typing import Any, NoReturn

import torch
from deepmd.pt.model.descriptor.base_descriptor import BaseDescriptor


class DescriptorAnswers(BaseDescriptor, torch.nn.Module):  # type: ignore[misc]
    """Attributes of a descriptor, and the answers that follow from them."""

    # Of the section, where a subclass is registered.
    type_name = ""
    type_map: list[str]
    rcut: float
    # Most neighbours of an atom.
    room: int
    nlayers: int
    channels: int
    # First component of the vectors of each layer's features, −1 where it has none.
    vectors: list[int]

    def get_rcut(self) -> float:
        """Cutoff in Å."""
        return self.rcut

    def get_rcut_smth(self) -> float:
        """Where the influence of a neighbour begins to fade, Å: the envelope does so from the start."""
        return 0.0

    def get_sel(self) -> list[int]:
        """Columns of the host's list: one more than an atom may have neighbours, so that a full row is one that was cut."""
        return [self.room + 1]

    def get_nsel(self) -> int:
        """Columns of the host's list."""
        return self.room + 1

    def get_ntypes(self) -> int:
        """Number of elements."""
        return len(self.type_map)

    def get_type_map(self) -> list[str]:
        """Elements by type."""
        return self.type_map

    def get_dim_out(self) -> int:
        """Scalars of an atom: those of all layers."""
        return self.nlayers * self.channels

    def get_dim_emb(self) -> int:
        """Vectors of an atom, for dipoles and polarizabilities.

        Raises
        ------
        ValueError
            If its features have none.
        """
        number = sum(place >= 0 for place in self.vectors) * self.channels
        if number == 0:
            raise ValueError(
                f"{self.type_name} descriptor: the features that are read have no vectors, which dipoles and polarizabilities are "
                'made of. Set "max_L": 1 or higher, and "num_interactions": 2 or more.'
            )
        return number

    def mixed_types(self) -> bool:
        """One list of neighbours for all elements."""
        return True

    def has_message_passing(self) -> bool:
        """Whether features of neighbours are read: the host's interface to LAMMPS then brings what ranks exchange."""
        return self.nlayers > 1

    def has_message_passing_across_ranks(self) -> bool:
        """The same."""
        return self.nlayers > 1

    def need_sorted_nlist_for_lower(self) -> bool:
        """Lists may have any order."""
        return False

    def get_env_protection(self) -> float:
        """No distance is divided by."""
        return 0.0

    def get_dim_chg_spin(self) -> int:
        """No embedding of charge and spin."""
        return 0

    def has_default_chg_spin(self) -> bool:
        """No embedding of charge and spin."""
        return False

    def get_default_chg_spin(self) -> None:
        """No embedding of charge and spin."""
        return

    def enable_compression(self, *_arguments: Any, **_options: Any) -> NoReturn:
        """Refuse ``dp compress``."""
        raise NotImplementedError(
            f"{self.type_name} descriptor: dp compress tabulates embedding networks of two atoms, which this descriptor does not "
            'have. Freeze without it; the fast file is the .pt2 of "type": "mace".'
        )


class NotExported:
    """What the exportable backend (``dp --pt-expt``) finds for the type: it says at the first call that there is none."""

    @staticmethod
    def refuse(*_arguments: Any, **_options: Any) -> NoReturn:
        """Say what to use instead."""
        raise NotImplementedError(
            "mace descriptor: with DeePMD-kit's own fitting_net it is trained with `dp --pt train` and frozen with `dp --pt freeze` "
            'to a .pth; `dp --pt-expt`, .pt2 and .pte are for "type": "mace" in the model section.'
        )

    # Building a model, counting neighbours, reading a file.
    __init__ = update_sel = deserialize = refuse
