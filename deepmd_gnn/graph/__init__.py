"""From positions to a graph, sums over its edges, and from edge gradients to forces and virials. Plain torch."""
