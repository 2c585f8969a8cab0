"""Kernels that are generated for a model when it is frozen, and linked into the ``.pt2``."""
