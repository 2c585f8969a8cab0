"""Neighbour search in pure torch: every pair within the cutoff, in time and memory linear in the atoms.

The frozen ``.pth`` must find neighbours without any library (C and Python interfaces hand over bare frames), so
this is a cell list over sorted bins that TorchScript can compile, and eager training runs the same code.
"""

from typing import Final

import torch


class NeighborPairs(torch.nn.Module):
    """Find all ordered pairs of atoms closer than a cutoff.

    Parameters
    ----------
    r_max : float
        Cutoff in Å.
    """

    # Bins per direction: keeps the bin numbers of a frame below 1e15 however far its atoms fly apart.
    max_bins: Final[float] = 1.0e5
    # A cell thinner than this fraction of the cutoff needs so many images that it can only be a mistake.
    min_height: Final[float] = 0.02

    def __init__(self, r_max: float) -> None:
        super().__init__()
        self.r_max = r_max

    def forward(
        self, coord: torch.Tensor, atype: torch.Tensor, box: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Search a batch of frames.

        Parameters
        ----------
        coord : torch.Tensor
            Å, float64, shape (nf, nloc, 3); need not be wrapped into the cell.
        atype : torch.Tensor
            int64, shape (nf, nloc); atoms of type < 0 have no neighbours and are nobody's neighbour.
        box : torch.Tensor, optional
            Cell vectors as rows, Å, float64, shape (nf, 3, 3); None for free boundaries.

        Returns
        -------
        center, neighbor : torch.Tensor
            Flat atom indices (frame * nloc + atom), int64, shape (nedge,), sorted by center. A pair appears
            once for every image within the cutoff and in both directions.
        edge_vec : torch.Tensor
            Position of the neighbour's image minus position of the centre, Å, shape (nedge, 3), differentiable
            in `coord` and `box`.

        Raises
        ------
        ValueError
            If a coordinate is not finite or a cell is degenerate.
        """
        nloc = atype.shape[1]
        if not bool(torch.isfinite(coord).all()):
            raise ValueError(
                "mace model: a coordinate is NaN or infinite. Check the input frame or the time step."
            )
        index = torch.nonzero(atype.reshape(-1) >= 0).view(-1)
        frame = torch.div(index, max(nloc, 1), rounding_mode="floor")
        position = coord.reshape(-1, 3)[index]
        source, shift = self.images(position, frame, box)
        wrapped = position.detach()
        home = torch.zeros_like(wrapped)
        if box is not None:
            cell = box.detach()[frame]
            home = torch.floor(torch.matmul(wrapped.unsqueeze(1), torch.linalg.inv(cell)).squeeze(1))
            wrapped = wrapped - torch.matmul(home.unsqueeze(1), cell).squeeze(1)
        image = wrapped[source]
        if box is not None:
            image = image + torch.matmul(shift.unsqueeze(1), box.detach()[frame[source]]).squeeze(1)
        center, ghost = self.close_pairs(wrapped, image, frame, source, (shift == 0).all(dim=1))
        neighbor = source[ghost]
        edge_vec = position[neighbor] - position[center]
        if box is not None:
            cells_between = shift[ghost] - home[neighbor] + home[center]
            edge_vec = edge_vec + torch.matmul(cells_between.unsqueeze(1), box[frame[center]]).squeeze(1)
        return index[center], index[neighbor], edge_vec

    def images(
        self, position: torch.Tensor, frame: torch.Tensor, box: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """List the atoms and their periodic images that lie within the cutoff of the cell.

        Parameters
        ----------
        position : torch.Tensor
            Å, shape (natom, 3).
        frame : torch.Tensor
            Frame of each atom, shape (natom,).
        box : torch.Tensor, optional
            Cells, shape (nf, 3, 3).

        Returns
        -------
        source, shift : torch.Tensor
            Atom of each image, shape (nimage,), and its lattice translation from the wrapped atom, shape (nimage, 3).
        """
        source = torch.arange(position.shape[0], device=position.device)
        shift = torch.zeros_like(position)
        if box is None:
            return source, shift
        inverse = self.inverse_cells(box.detach())
        fractional = torch.matmul(position.detach().unsqueeze(1), inverse[frame]).squeeze(1)
        fractional = fractional - torch.floor(fractional)
        pad = self.r_max * torch.linalg.norm(inverse, dim=1)  # (nf, 3), cutoff in units of the cell heights
        pad = pad * (1.0 + 1e-9)
        for axis in range(3):
            sources: list[torch.Tensor] = []
            shifts: list[torch.Tensor] = []
            count = int(torch.ceil(pad[:, axis].max()).item()) if pad.shape[0] > 0 else 0
            reach = pad[:, axis][frame[source]]
            along = fractional[:, axis][source]
            for step in range(-count, count + 1):
                keep = torch.nonzero((along + step >= -reach) & (along + step <= 1.0 + reach)).view(-1)
                sources.append(source[keep])
                moved = shift[keep]
                moved[:, axis] = float(step)
                shifts.append(moved)
            source, shift = torch.cat(sources), torch.cat(shifts)
        return source, shift

    def inverse_cells(self, box: torch.Tensor) -> torch.Tensor:
        """Invert the cells, refusing degenerate ones.

        Parameters
        ----------
        box : torch.Tensor
            Å, shape (nf, 3, 3).

        Returns
        -------
        torch.Tensor
            1/Å, shape (nf, 3, 3).
        """
        volume = torch.abs(torch.linalg.det(box))
        # Comparisons with NaN, as of cells whose inverse has no numbers, are false.
        if not bool(torch.isfinite(box).all()) or not bool((volume >= 1e-9).all()):
            raise ValueError(
                "mace model: a cell is degenerate (zero volume, NaN or infinite). Give three independent vectors, or no cell for free boundaries."
            )
        inverse = torch.linalg.inv(box)
        if not bool((1.0 / torch.linalg.norm(inverse, dim=1) >= self.min_height * self.r_max).all()):
            raise ValueError(
                "mace model: a cell is degenerate (thinner than a fiftieth of the cutoff radius). Check the cell vectors and their unit, Å."
            )
        return inverse

    def close_pairs(
        self,
        center: torch.Tensor,
        image: torch.Tensor,
        frame: torch.Tensor,
        source: torch.Tensor,
        at_home: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pair every atom with the images in the 27 bins around it that are within the cutoff.

        Parameters
        ----------
        center : torch.Tensor
            Wrapped atoms, shape (natom, 3).
        image : torch.Tensor
            Atoms and images, shape (nimage, 3).
        frame : torch.Tensor
            Frame of each atom, shape (natom,).
        source : torch.Tensor
            Atom of each image, shape (nimage,).
        at_home : torch.Tensor
            Whether the image is the atom itself, shape (nimage,).

        Returns
        -------
        tuple[torch.Tensor, torch.Tensor]
            Atom and image of each pair, shape (nedge,), sorted by atom.
        """
        if center.shape[0] == 0:
            return source[:0], source[:0]
        low = image.min(dim=0)[0]
        width = max(self.r_max, float((image.max(dim=0)[0] - low).max().item()) / self.max_bins)
        # A margin of one empty bin on every side keeps frames and rows of bins apart.
        bins = torch.floor((image - low) / width).to(torch.int64) + 1
        counts = bins.max(dim=0)[0] + 2
        key = ((frame[source] * counts[0] + bins[:, 0]) * counts[1] + bins[:, 1]) * counts[2] + bins[:, 2]
        sorted_key, order = torch.sort(key)
        own = torch.floor((center - low) / width).to(torch.int64) + 1
        own_key = ((frame * counts[0] + own[:, 0]) * counts[1] + own[:, 1]) * counts[2] + own[:, 2]
        rows = torch.arange(center.shape[0], device=center.device)
        centers: list[torch.Tensor] = []
        ghosts: list[torch.Tensor] = []
        for dx in range(-1, 2):
            for dy in range(-1, 2):
                # The three bins along z are neighbours in the sorted order: one range of images.
                middle = own_key + dx * counts[1] * counts[2] + dy * counts[2]
                begin = torch.searchsorted(sorted_key, middle - 1)
                number = torch.searchsorted(sorted_key, middle + 1, right=True) - begin
                atom = torch.repeat_interleave(rows, number)
                first = torch.repeat_interleave(begin - (torch.cumsum(number, 0) - number), number)
                ghost = order[first + torch.arange(atom.shape[0], device=atom.device)]
                distance2 = (image[ghost] - center[atom]).square().sum(dim=1)
                keep = (distance2 <= self.r_max * self.r_max) & ~((source[ghost] == atom) & at_home[ghost])
                kept = torch.nonzero(keep).view(-1)
                centers.append(atom[kept])
                ghosts.append(ghost[kept])
        atom, ghost = torch.cat(centers), torch.cat(ghosts)
        by_center = torch.argsort(atom, stable=True)
        return atom[by_center], ghost[by_center]
