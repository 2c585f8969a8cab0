"""Entry point ``deepmd.pt_expt``: keeps DeePMD-kit's own exportable models usable beside e3nn 0.4.4."""

from deepmd_gnn.e3nn_compat import allow_e3nn_constants

allow_e3nn_constants()


def load() -> None:
    """Do nothing: the repair happens when DeePMD-kit imports this module."""
