"""Thermal conductivity from the heat flux that ``in.lammps`` recorded: ``python green_kubo.py flux.txt``."""

import argparse
from pathlib import Path

import numpy as np
from ase.units import _e, _k

# LAMMPS' units metal, eV/(Å ps K), in W/(m K).
TO_SI = _e / (1e-10 * 1e-12)
BOLTZMANN = _k / _e  # eV/K


def autocorrelation(flux: np.ndarray) -> np.ndarray:
    """Mean over origins and components of J(0)·J(t).

    Parameters
    ----------
    flux : numpy.ndarray
        Shape (nstep, 3).

    Returns
    -------
    numpy.ndarray
        Shape (nstep // 2,).
    """
    nstep = len(flux)
    spectrum = np.fft.rfft(flux - flux.mean(axis=0), n=2 * nstep, axis=0)
    sums = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[: nstep // 2].mean(axis=1)
    return sums / (nstep - np.arange(nstep // 2))


def conductivity(flux: np.ndarray, temperature: float, volume: float, spacing: float) -> np.ndarray:
    r"""Integrate :math:`\kappa(t) = \frac{1}{V k_B T^2} \int_0^t \langle J(0) J(t') \rangle dt'`.

    Parameters
    ----------
    flux : numpy.ndarray
        Total heat flux J, eV Å/ps, shape (nstep, 3).
    temperature, volume, spacing : float
        K, Å³, ps between two values.

    Returns
    -------
    numpy.ndarray
        W/(m K) as a function of the upper limit of the integral.
    """
    correlation = autocorrelation(flux)
    steps = 0.5 * (correlation[1:] + correlation[:-1]) * spacing
    return TO_SI * np.concatenate([[0.0], np.cumsum(steps)]) / (volume * BOLTZMANN * temperature**2)


def main() -> None:
    """Print the conductivity for several upper limits, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--timestep", type=float, default=0.0005, help="ps")
    parser.add_argument("--figure", type=Path, default=Path("conductivity.png"))
    options = parser.parse_args()
    table = np.loadtxt(options.file)
    spacing = options.timestep * (table[1, 0] - table[0, 0])
    kappa = conductivity(table[:, 1:4], table[:, 4].mean(), table[:, 5].mean(), spacing)
    times = spacing * np.arange(len(kappa))
    for index in np.linspace(0, len(kappa) - 1, 6, dtype=int)[1:]:
        print(f"integral to {times[index]:8.3f} ps: {kappa[index]:8.4f} W/(m K)")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    axes.plot(times, kappa)
    axes.set(xlabel="upper limit of the integral (ps)", ylabel="κ (W m⁻¹ K⁻¹)")
    figure.savefig(options.figure, dpi=150)


if __name__ == "__main__":
    main()
