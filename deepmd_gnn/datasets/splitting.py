"""Which frames validate."""

import numpy as np


def split(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Choose validation frames at random, the same as native MACE with the same seed.

    Parameters
    ----------
    count : int
        Frames, two or more.
    fraction : float
        Of them for validation, rounded down, but one at least.
    seed : int
        Of the permutation.

    Returns
    -------
    training, validation : list[int]
        Places, in the order of the files.

    Raises
    ------
    ValueError
        If the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"--valid-fraction {fraction:g} must be between 0 and 1.")
    size = min(count - int(fraction * count), count - 1)
    order = np.arange(count)
    # A list, as native's: numpy shuffles lists and arrays differently.
    places = order.tolist()
    np.random.default_rng(seed).shuffle(places)
    return sorted(places[:size]), sorted(places[size:])
