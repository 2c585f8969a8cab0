"""What host/ needs of a network's options."""

from typing import Any, Protocol


class Options(Protocol):
    """Options of a network, see :class:`~deepmd_gnn.config.mace.MaceConfig` for MACE's."""

    @property
    def r_max(self) -> float:
        """Cutoff in Å."""

    @property
    def sel(self) -> int | str:
        """Expected number of neighbours: a hint for buffers of the host."""

    @property
    def avg_num_neighbors(self) -> float | str:
        """Given, or ``"auto"``: from the training data."""

    @property
    def scale(self) -> float | str:
        """Given, or ``"auto"``: root mean square of the forces of the training data."""

    @property
    def atomic_energies(self) -> Any:
        """E0: ``"auto"``, a file, a list or a dictionary by element."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values that make the same options again."""
