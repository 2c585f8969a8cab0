"""Charges of atoms in LAMMPS: one rank gives Python's numbers, several are refused; programs of an edge list are refused."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import tiny_model
from lammps_cases import REBUILDS, SYSTEMS, TEMPLATE, Case, freeze
from lammps_runner import assert_same, python_frame, read_frames, run_lammps, write_data
from tolerances import NOTICEABLE, RANKS

CHARGED = {"use_coulomb_term": True, "coulomb_cutoff": 5.5, "scale": 60.0, "avg_num_neighbors": 4.0}
CASE = Case("tilted", 1, pair_style="deepmd {model} fparam 1")


def charged_model(layers):
    """With charges of some tenths, so that their energy counts."""
    model = tiny_model(**CHARGED, num_interactions=layers)
    with torch.no_grad():
        for layer in model.energy_model.partial_charges.layers:
            layer.weight.mul_(50.0)
    return model


def run(folder, model, case):
    """Run a case with a frozen file."""
    coord, kinds, cell = SYSTEMS[case.system]()
    folder.mkdir()
    write_data(folder / "data.lmp", coord, kinds, cell, 2)
    words = {
        "boundary": "p p p",
        "setup": case.setup,
        "grid": case.grid,
        "rebuilds": REBUILDS,
        "every": case.every,
    }
    style = case.pair_style.format(model=model)
    script = TEMPLATE.format(
        **words, pair_style=style, pair_coeff="* * O H", atomic="c_e c_s[*]", dynamics=case.dynamics
    )
    return run_lammps(folder, script, case.ranks)


@pytest.mark.slow
@pytest.mark.lammps
@pytest.mark.parametrize("layers", [1, 2])
def test_one_rank(tmp_path, layers):
    model = tmp_path / "model.pth"
    freeze(charged_model(layers), model)
    for number, setup in enumerate(["", "atom_modify map yes"]):
        case = dataclasses.replace(CASE, setup=setup)
        frames = read_frames(run(tmp_path / f"run{number}", model, case).check())
        expected = [python_frame(model, frame, values=[1.0]) for frame in frames]
        assert_same(frames, expected, RANKS["float64"], f"{layers} layers, {setup}")
    neutral = python_frame(model, frames[0], values=[0.0])
    assert np.abs(neutral.force - expected[0].force).max() > NOTICEABLE


@pytest.mark.slow
@pytest.mark.lammps
def test_several_ranks_are_refused(tmp_path):
    model = tmp_path / "model.pth"
    freeze(charged_model(2), model)
    words = "use_coulomb_term runs on one rank only"
    for number, grid in enumerate(["2 1 1", "1 1 2", "2 1 1", "1 1 2"]):
        done = run(tmp_path / f"run{number}", model, dataclasses.replace(CASE, ranks=2, grid=grid))
        assert done.returncode != 0
        if (
            words in done.output
        ):  # the rank that stops first ends the other; mpirun may lose the words of both
            break
    assert words in done.output


@pytest.mark.parametrize("suffix", [".pt2", ".pte"])
def test_exported_files_are_refused_before_anything_is_compiled(tmp_path, suffix):
    with pytest.raises(NotImplementedError, match=r"use_coulomb_term has no \.pt2 and no \.pte"):
        freeze(charged_model(2), tmp_path / f"model{suffix}")
    assert not list(tmp_path.iterdir())
