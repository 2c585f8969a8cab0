"""Data sets in DeePMD-kit's folders, read for native MACE and for tests of trained models."""

import json
from pathlib import Path

import numpy as np


def read_system(folder):
    """Read the frames of a system.

    Parameters
    ----------
    folder : pathlib.Path
        With ``type.raw``, ``type_map.raw`` and ``set.*``.

    Returns
    -------
    list[dict]
        Per frame ``symbols``, ``coord`` in Å (n, 3), ``cell`` in Å (3, 3) or None, ``energy`` in eV, ``force`` in
        eV/Å (n, 3) and, where labelled, ``virial`` in eV (3, 3).
    """
    names = np.array((folder / "type_map.raw").read_text().split())
    indices = np.loadtxt(folder / "type.raw", dtype=int, ndmin=1)
    frames = []
    for part in sorted(folder.glob("set.*")):
        data = {path.stem: np.load(path).astype(float) for path in part.glob("*.npy")}
        for k, coord in enumerate(data["coord"]):
            kinds = data["real_atom_types"][k].astype(int) if "real_atom_types" in data else indices
            real = kinds >= 0  # mixed-type frames are padded
            frame = {
                "symbols": list(names[kinds[real]]),
                "coord": coord.reshape(-1, 3)[real],
                "cell": None if (folder / "nopbc").exists() else data["box"][k].reshape(3, 3),
                "energy": float(data["energy"].reshape(-1)[k]),
                "force": data["force"][k].reshape(-1, 3)[real],
            }
            if "virial" in data:
                frame["virial"] = data["virial"][k].reshape(3, 3)
            frames.append(frame)
    return frames


def read_set(folder):
    """Read all systems below a folder, or the folder itself if it is one."""
    systems = sorted(path.parent for path in folder.rglob("type.raw"))
    return [frame for system in systems for frame in read_system(system)]


def write_xyz(path, frames, isolated=None):
    """Write frames as native MACE reads them: ``REF_energy``, ``REF_forces``, ``REF_virials``.

    Parameters
    ----------
    path : pathlib.Path
        Extended XYZ file.
    frames : list[dict]
        See :func:`read_system`.
    isolated : dict[str, float], optional
        Isolated-atom energies in eV, written as frames of their own.
    """
    from ase import Atoms
    from ase.io import write

    images = []
    for symbol, energy in (isolated or {}).items():
        atom = Atoms(symbol, positions=[[0.0, 0.0, 0.0]])
        atom.info.update(config_type="IsolatedAtom", REF_energy=energy)
        atom.arrays["REF_forces"] = np.zeros((1, 3))
        images.append(atom)
    for frame in frames:
        atoms = Atoms(frame["symbols"], positions=frame["coord"])
        if frame["cell"] is not None:
            atoms.set_cell(frame["cell"])
            atoms.set_pbc(True)
        atoms.info["REF_energy"] = frame["energy"]
        atoms.arrays["REF_forces"] = frame["force"]
        if "virial" in frame:
            # Native's stress is the derivative of the energy by strain per volume, minus the virial.
            atoms.info["REF_stress"] = -frame["virial"] / atoms.get_volume()
        images.append(atoms)
    write(path, images, format="extxyz")


def write_mixed(folder, frames, type_map):
    """Write frames of any sizes as one mixed-type system, padded with atoms of type −1.

    Parameters
    ----------
    folder : pathlib.Path
        Where to.
    frames : list[dict]
        See :func:`read_system`; all with a cell, and all with or all without virial.
    type_map : list[str]
        Elements.
    """
    natoms = max(len(frame["symbols"]) for frame in frames)
    shape = (len(frames), natoms)
    coord, force = np.zeros((*shape, 3)), np.zeros((*shape, 3))
    types = np.full(shape, -1)
    # The host looks at distances before it looks at types: padding atoms stand far from everything.
    coord += 1e3 + 10.0 * np.arange(natoms)[None, :, None]
    for k, frame in enumerate(frames):
        n = len(frame["symbols"])
        coord[k, :n], force[k, :n] = frame["coord"], frame["force"]
        types[k, :n] = [type_map.index(symbol) for symbol in frame["symbols"]]
    arrays = {
        "coord": coord.reshape(len(frames), -1),
        "force": force.reshape(len(frames), -1),
        "box": np.stack([frame["cell"].ravel() for frame in frames]),
        "energy": np.array([frame["energy"] for frame in frames]),
        "real_atom_types": types,
    }
    if "virial" in frames[0]:
        arrays["virial"] = np.stack([frame["virial"].ravel() for frame in frames])
    (folder / "set.000").mkdir(parents=True)
    for name, value in arrays.items():
        np.save(folder / "set.000" / f"{name}.npy", value)
    (folder / "type.raw").write_text("0\n" * natoms)
    (folder / "type_map.raw").write_text("\n".join(type_map) + "\n")


def errors(model, frames):
    """Root mean square errors of a model on frames.

    Parameters
    ----------
    model : deepmd_gnn.mace.MaceModel
        In eval mode.
    frames : list[dict]
        See :func:`read_system`.

    Returns
    -------
    dict[str, float]
        ``energy`` in eV per atom, ``force`` in eV/Å, and with labels ``virial`` in eV per atom and ``stress`` in eV/Å³.
    """
    import torch

    squares = {"energy": [], "force": [], "virial": [], "stress": []}
    for frame in frames:
        n = len(frame["symbols"])
        atype = torch.tensor([[model.type_map.index(symbol) for symbol in frame["symbols"]]])
        box = None if frame["cell"] is None else torch.tensor(frame["cell"]).reshape(1, 9)
        out = model(torch.tensor(frame["coord"])[None], atype, box)
        squares["energy"].append(((out["energy"].item() - frame["energy"]) / n) ** 2)
        squares["force"].append((out["force"][0].numpy() - frame["force"]) ** 2)
        if "virial" in frame:
            error = out["virial"][0].numpy().reshape(3, 3) - frame["virial"]
            squares["virial"].append((error / n) ** 2)
            squares["stress"].append((error / abs(np.linalg.det(frame["cell"]))) ** 2)
    return {
        key: float(np.sqrt(np.mean(np.concatenate([np.ravel(v) for v in values]))))
        for key, values in squares.items()
        if values
    }


def read_input(path, **changes):
    """Read an ``input.json`` and change sections of it.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    **changes : dict
        Keys to replace, per section.

    Returns
    -------
    dict
    """
    config = json.loads(Path(path).read_text())
    for section, values in changes.items():
        config.setdefault(section, {}).update(values)
    return config
