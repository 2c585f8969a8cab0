"""What DeePMD-kit asks of a model that gives atomic energies on a graph."""
