"""Training data from a tiny teacher model, in DeePMD-kit's folders."""

import lmdb
import msgpack
import numpy as np
import torch
from helpers import random_frame, tiny_model

E0 = {"O": -5.0, "H": -1.25}


def label(frames):
    """Energies, forces and virials of frames (coord, atype, cell or None) from the teacher."""
    teacher = tiny_model(seed=77, scale=60.0, atomic_energies=E0)
    labels = []
    for coord, atype, cell in frames:
        box = None if cell is None else torch.tensor(cell[None])
        out = teacher(torch.tensor(coord[None]), torch.as_tensor(np.asarray(atype))[None], box)
        labels.append([out[key][0].numpy() for key in ("energy", "force", "virial")])
    return labels


def write_system(path, frames, periodic=True):
    """Write frames of one composition; returns the path as a string."""
    labels = label([(x, t, cell if periodic else None) for x, t, cell in frames])
    data = {
        "coord": np.stack([x.ravel() for x, _, _ in frames]),
        "box": np.stack([cell.ravel() for _, _, cell in frames]),
        "energy": np.stack([e for e, _, _ in labels]),
        "force": np.stack([f.ravel() for _, f, _ in labels]),
    }
    if periodic:
        data["virial"] = np.stack([v for _, _, v in labels])
    _save(path, data)
    np.savetxt(path / "type.raw", frames[0][1], fmt="%d")
    if not periodic:
        (path / "nopbc").touch()
    return str(path)


def write_mixed_system(path, frames):
    """Write frames of several compositions as one mixed-type system, padded with atoms of type −1."""
    natoms = max(len(t) for _, t, _ in frames)
    labels = label(frames)
    shape = (len(frames), natoms, 3)
    coord = (
        np.random.default_rng(0).random(shape) * 3.0
    )  # padding sits anywhere, but the host wants no overlaps
    force, types = np.zeros(shape), np.full(shape[:2], -1)
    for k, ((x, t, _), (_, f, _)) in enumerate(zip(frames, labels, strict=True)):
        coord[k, : len(t)], force[k, : len(t)], types[k, : len(t)] = x, f, t
    _save(
        path,
        {
            "coord": coord.reshape(len(frames), -1),
            "box": np.stack([cell.ravel() for _, _, cell in frames]),
            "energy": np.stack([e for e, _, _ in labels]),
            "force": force.reshape(len(frames), -1),
            "real_atom_types": types,
        },
    )
    np.savetxt(path / "type.raw", np.zeros(natoms, int), fmt="%d")
    return str(path)


def _save(path, data):
    (path / "set.000").mkdir(parents=True)
    for name, value in data.items():
        np.save(path / "set.000" / f"{name}.npy", value)
    (path / "type_map.raw").write_text("O\nH\n")


def composition_frames(natoms, number, seed, **kwargs):
    """Frames of one composition, displaced at random around the first."""
    rng = np.random.default_rng(seed)
    coord, atype, cell = random_frame(natoms=natoms, seed=seed, spacing=1.3, **kwargs)
    return [(coord + (k > 0) * rng.normal(0, 0.1, coord.shape), atype, cell) for k in range(number)]


def write_lmdb(path, frames, type_map, labels=None):
    """A database of frames of any sizes, as the host reads it."""
    labels = label(frames) if labels is None else labels
    environment = lmdb.open(str(path), map_size=2**24)
    with environment.begin(write=True) as transaction:
        for k, ((coord, atype, cell), (energy, force, virial)) in enumerate(zip(frames, labels, strict=True)):
            arrays = {
                "coords": coord, "cells": cell, "energies": energy, "forces": force,
                "virials": virial.reshape(3, 3), "atom_types": atype.astype("int32"),
            }  # fmt: skip
            frame = {
                name: {
                    "type": str(a.dtype),
                    "shape": list(a.shape),
                    "data": np.ascontiguousarray(a).tobytes(),
                }
                for name, a in ((n, np.asarray(v)) for n, v in arrays.items())
            }
            frame["atom_numbs"] = [int((atype == i).sum()) for i in range(len(type_map))]
            transaction.put(f"{k:012d}".encode(), msgpack.packb(frame, use_bin_type=True))
        metadata = {
            "nframes": len(frames), "frame_idx_fmt": "012d", "type_map": type_map,
            "frame_nlocs": [len(atype) for _, atype, _ in frames], "frame_system_ids": [0] * len(frames),
            "system_info": {"natoms": frame["atom_numbs"]},
        }  # fmt: skip
        transaction.put(b"__metadata__", msgpack.packb(metadata, use_bin_type=True))
    environment.close()
    return labels


def sampled_frames():
    """One system of two frames with different compositions, as the host samples it."""
    frames = [random_frame(natoms=6, seed=seed) for seed in (1, 2)]
    coord, atype, cell = (torch.tensor(np.stack(x)) for x in zip(*frames, strict=True))
    counts = torch.stack([(atype == kind).sum(dim=1) for kind in (0, 1)], dim=1)
    return {
        "coord": coord,
        "atype": atype,
        "box": cell.reshape(2, 9),
        "force": torch.tensor(np.random.default_rng(0).normal(size=coord.shape)),
        "energy": torch.tensor([[-10.0], [-12.0]], dtype=torch.float64),
        "natoms": torch.cat([torch.full((2, 2), 6), counts], dim=1),
        "find_energy": torch.ones(1),
        "find_force": torch.ones(1),
    }


def loss_of(energy, force, virial, move=lambda tensor: tensor):
    """Squared differences of random targets."""
    rng = np.random.default_rng(4)
    target = [move(torch.tensor(rng.normal(size=tuple(x.shape)))) for x in (energy, force, virial)]
    return sum(
        weight * (x - t).square().mean()
        for weight, x, t in zip((1.0, 10.0, 0.1), (energy, force, virial), target, strict=True)
    )
