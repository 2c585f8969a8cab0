"""MACE as a first-class DeePMD-kit model.

Importing this package does nothing but define the version: DeePMD-kit finds the model through the entry
points ``deepmd.backend`` (input schema) and ``deepmd.pt`` (the model).
"""

__version__ = "1.0.0.dev0"
