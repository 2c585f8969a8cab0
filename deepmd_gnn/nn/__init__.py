"""The layers of the network in plain torch: no mace, no e3nn, no DeePMD-kit."""
