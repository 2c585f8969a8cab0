"""Inputs at the edge of what makes sense, for every kind of file: coordinates, types, cell."""

import numpy as np

# And the words with which they are refused.
BAD = {
    "coincident atoms": ([[0, 0, 0], [1, 1, 1], [1, 1, 1]], [0, 1, 1], None, "same place.*atoms 1 and 2"),
    "coincident across a face": ([[0, 0, 0], [5, 0, 0]], [0, 1], np.eye(3) * 5.0, "same place"),
    "NaN": ([[0, 0, 0], [np.nan, 1, 1]], [0, 1], None, "NaN or infinite"),
    "infinite": ([[0, 0, 0], [np.inf, 1, 1]], [0, 1], None, "NaN or infinite"),
    "flat cell": ([[0, 0, 0], [1, 1, 1]], [0, 1], np.diag([5.0, 5.0, 0.0]), "degenerate"),
    "thin cell": ([[0, 0, 0], [1, 1, 1]], [0, 1], np.diag([5.0, 5.0, 0.01]), "degenerate"),
    "NaN cell": ([[0, 0, 0], [1, 1, 1]], [0, 1], np.diag([5.0, 5.0, np.nan]), "degenerate"),
    "type out of range": (
        [[0, 0, 0], [1, 1, 1]],
        [0, 2],
        None,
        "type 2 is out of range; the model has 2 types: O, H",
    ),
    "type below -1": ([[0, 0, 0], [1, 1, 1]], [0, -2], None, "type -2 is out of range; the model has 2"),
    "far away": (
        [[0, 0, 0], [1e15, 1, 1]],
        [0, 1],
        None,
        "a coordinate is 1.*e\\+15 Å|a coordinate is 10{15}.* Å",
    ),
    "all far away": (
        [[7e15, 0, 0], [7e15, 1, 1]],
        [0, 1],
        np.eye(3) * 5.0,
        "float64 does not resolve distances",
    ),
    "at the end of all numbers": ([[0, 0, 0], [1e300, 1, 1]], [0, 1], None, "does not resolve distances"),
    "long cell": ([[0, 0, 0], [1, 1, 1]], [0, 1], np.eye(3) * 1e200, "a cell vector has a component of"),
    "cell of numbers without an inverse": (
        [[0, 0, 0], [1, 1, 1]],
        [0, 1],
        np.array([[8e-310, 0, 0], [8e-311, 8e-310, 0], [0, 1e-310, 8e-310]]),
        "degenerate",
    ),
    "infinite cell": ([[0, 0, 0], [1, 1, 1]], [0, 1], np.diag([5.0, 5.0, np.inf]), "degenerate"),
    "oblique cell": (
        [[0, 0, 0], [1, 1, 1]],
        [0, 1],
        [[7.0, 0, 0], [7e6, 7, 0], [0, 0, 7]],
        "thinner than a fiftieth",
    ),
    "nearly singular cell": (
        [[0, 0, 0], [1, 1, 1]],
        [0, 1],
        [[7.0, 0, 0], [7, 1e-6, 0], [0, 0, 7]],
        "thinner than a fiftieth",
    ),
}
# Two atoms that see each other, and what a search over a grid could stumble over.
FAR = {
    "an atom far away": ([[0, 0, 0], [1, 1, 1], [1e9, 0, 0]], [0, 1, 1], None),
    "flat and huge": ([[0, 0, 1], [1, 1, 1]], [0, 1], np.diag([1300.0, 1300.0, 4.5])),
    "long": ([[0, 0, 1], [1, 1, 1]], [0, 1], np.diag([4.0, 4.0, 1e8])),
    "cells away": ([[0, 0, 0], [1e8 + 1, 1, 1]], [0, 1], np.eye(3) * 5.0),
}
