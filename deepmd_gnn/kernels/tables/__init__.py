"""Radial weights as tables, their error, and the atoms with which tables and files are probed."""
