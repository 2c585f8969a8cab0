"""What works on any model file: checks of its physics, LAMMPS, timings, plots."""
