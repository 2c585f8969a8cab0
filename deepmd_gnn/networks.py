"""All networks: who imports this module has registered each with DeePMD-kit. A further network is a line here."""

import deepmd_gnn.mace
import deepmd_gnn.nequip  # noqa: F401
