"""Files of native MACE: described, read, converted and written."""
