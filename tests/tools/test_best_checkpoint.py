"""Of several checkpoints the one with the least validation error."""

import pytest

from deepmd_gnn.tools.best_checkpoint import best_checkpoint, early_stop
from deepmd_gnn.tools.result_files import read_learning_curve

SINGLE = """\
# step       rmse_val    rmse_trn    rmse_e_val  rmse_e_trn    rmse_f_val  rmse_f_trn   lr
      1      9.00e+00    1.33e+01      8.65e-01    1.43e+00      1.74e+00    1.31e+00   1.0e-02
    100      8.00e+00    1.33e+01      4.00e-03    1.43e+00      2.00e-01    1.31e+00   1.0e-02
    200      7.00e+00    1.33e+01      2.00e-03    1.43e+00      1.00e-01    1.31e+00   1.0e-02
    300      6.00e+00    1.33e+01      1.00e-03    1.43e+00      1.50e-01    1.31e+00   1.0e-02
"""
TASKS = """\
# step    rmse_e_val_new rmse_e_trn_new rmse_f_val_new rmse_f_trn_new rmse_e_trn_replay rmse_f_trn_replay lr
    100      1.0 1.0 nan nan 1.0 1.0 1e-3
    200      3.0 1.0 nan nan 1.0 1.0 1e-3
"""


def training(folder, curve, *steps):
    (folder / "lcurve.out").write_text(curve)
    for step in steps:
        (folder / f"model.ckpt-{step}.pt").touch()
    (folder / "model.ckpt.pt").touch()
    (folder / "model_ema.ckpt-200.pt").touch()
    return folder


def test_forces_decide(tmp_path):
    """The weighted sum and the energies fall on; step 1 was not kept."""
    best = best_checkpoint(training(tmp_path, SINGLE, 100, 200, 300))
    assert best == (tmp_path / "model.ckpt-200.pt", 200, 300, "least validation error of forces, 100 meV/Å")
    (tmp_path / "model.ckpt-200.pt").unlink()
    assert best_checkpoint(tmp_path).step == 300
    # As good as an earlier one: the later.
    assert best_checkpoint(training(tmp_path, SINGLE.replace("1.50e-01", "2.00e-01"))).step == 300


def test_energies_of_a_task_without_forces(tmp_path):
    best = best_checkpoint(training(tmp_path, TASKS, 100, 200), "new")
    assert (best.step, best.last, best.reason) == (
        100,
        200,
        "least validation error of energies, 1e+03 meV/atom",
    )
    # No validation frames, or none when a checkpoint was written.
    assert best_checkpoint(tmp_path, "replay")[1:] == (
        200,
        200,
        "the last one: there are no validation frames",
    )
    assert (
        best_checkpoint(
            training(tmp_path, TASKS.replace("    100", "    150").replace("    200", "    250")), "new"
        ).step
        == 200
    )


def test_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"has no model\.ckpt-STEP\.pt"):
        best_checkpoint(tmp_path)


def test_early_stop(tmp_path):
    """After as many validations as were said, counted from the least error; lines without one do not count."""
    (tmp_path / "lcurve.out").write_text(SINGLE)
    curve = read_learning_curve(tmp_path / "lcurve.out")
    assert early_stop(curve, 2) is None
    stop = early_stop(curve, 1)
    assert (stop.step, stop.best) == (300, 200)
    assert (
        stop.reason
        == "the validation error of forces has not fallen for 1 validations, since step 200 (100 meV/Å)"
    )
    (tmp_path / "lcurve.out").write_text(
        TASKS.replace("    200      3.0", "    150 nan 1.0 nan nan 1.0 1.0 1e-3\n    200      3.0")
    )
    stop = early_stop(read_learning_curve(tmp_path / "lcurve.out"), 1)
    assert (stop.step, stop.best) == (200, 100)
    assert "energies" in stop.reason
    # Equal errors, of which the later one is the best; the other kind of loss.
    (tmp_path / "lcurve.out").write_text("# step mae_f_val lr\n 1 1.0 1e-3\n 2 1.0 1e-3\n 3 2.0 1e-3\n")
    stop = early_stop(read_learning_curve(tmp_path / "lcurve.out"), 2)
    assert (stop.step, stop.best) == (3, 2)
    (tmp_path / "lcurve.out").write_text("# step rmse_f_trn lr\n 1 1.0 1e-3\n 2 2.0 1e-3\n")
    assert early_stop(read_learning_curve(tmp_path / "lcurve.out"), 1) is None
