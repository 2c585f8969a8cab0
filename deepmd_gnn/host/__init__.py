"""What DeePMD-kit asks of a model that gives atomic energies on a graph."""

# First, whoever is imported first: the host's model package loads our entry point, and with it everything here, while it is
# being imported itself; modules of this room that began before would be imported half.
import deepmd.pt.model.model.model  # noqa: F401
