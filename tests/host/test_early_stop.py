"""A training that ends early: a made-up loop with an optimiser and a learning curve."""

import pytest
import torch

from deepmd_gnn.host.early_stop import PATIENCE, patience, run_until_no_better

HEAD = "# step rmse_f_val rmse_f_trn lr\n"


class Trainer:
    """The host's order: a step of the optimiser, then a line of the curve."""

    def __init__(self, folder, errors, world_size=1):
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0)
        self.disp_file, self.errors, self.world_size = str(folder / "lcurve.out"), errors, world_size
        self.steps = 0
        self.disp_freq = self.save_freq = 1
        self.change_bias_after_training = False

    def run(self):
        with open(self.disp_file, "a") as file:
            file.write(HEAD)
            file.flush()
            for error in self.errors:
                self.weight.grad = -torch.ones(1)
                self.optimizer.step()
                self.steps += 1
                file.write(f"{self.steps} {error} 1.0 1e-3\n")
                file.flush()


@pytest.mark.parametrize(("wanted", "steps"), [("2", 4), ("3", 6), ("0", 6), (None, 6)])
def test_ends(wanted, steps, tmp_path, monkeypatch):
    """Before the step after the last validation that is waited for; weights are those of that step, and no hook is left."""
    if wanted is None:
        monkeypatch.delenv(PATIENCE, raising=False)
    else:
        monkeypatch.setenv(PATIENCE, wanted)
    trainer = Trainer(tmp_path, [3.0, 2.0, 2.0, 2.5, 1.0, 3.0])
    run_until_no_better(trainer, trainer.run)
    assert (trainer.steps, trainer.weight.tolist()) == (steps, [steps])
    trainer.run()


def test_earlier_lines_wait_for_a_new_one(tmp_path, monkeypatch):
    """A restart goes back behind lines that an earlier run has left."""
    monkeypatch.setenv(PATIENCE, "2")
    (tmp_path / "lcurve.out").write_text(HEAD + "1 1.0 1.0 1\n2 2.0 1.0 1\n3 2.0 1.0 1\n")
    trainer = Trainer(tmp_path, [2.0, 0.5, 0.4])
    trainer.steps = 1  # of the checkpoint
    run_until_no_better(trainer, trainer.run)
    assert trainer.steps == 4


def test_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(PATIENCE, "-2")
    with pytest.raises(ValueError, match="'-2', but must be a number of validations"):
        patience()
    monkeypatch.setenv(PATIENCE, "2")
    trainer = Trainer(tmp_path, [], world_size=2)
    with pytest.raises(ValueError, match="PATIENCE ends a training early, which is for one process"):
        run_until_no_better(trainer, trainer.run)
    trainer.world_size = 1
    trainer.save_freq, trainer.disp_freq = 2000, 100
    with pytest.raises(
        ValueError, match="'save_freq' is 2000, but must be 'disp_freq', 100, or a part of it"
    ):
        run_until_no_better(trainer, trainer.run)
    trainer.save_freq, trainer.change_bias_after_training = 50, True
    with pytest.raises(ValueError, match="before 'change_bias_after_training' comes"):
        run_until_no_better(trainer, trainer.run)
    assert trainer.steps == 0


@pytest.mark.parametrize(
    ("before", "words"),
    [("# step rmse_e_val lr\n1 1.0 1\n", "cannot be followed"), ("", "has no validation errors")],
)
def test_a_curve_without_errors_goes_on(before, words, tmp_path, monkeypatch, caplog):
    """Columns change after a restart, or there are none of validation: said once."""
    monkeypatch.setenv(PATIENCE, "1")
    (tmp_path / "lcurve.out").write_text(before)
    trainer = Trainer(tmp_path, [2.0, 2.0, 2.0] if before else ["nan"] * 3)
    run_until_no_better(trainer, trainer.run)
    assert trainer.steps == 3
    (record,) = caplog.records
    assert "the training will not end early" in record.getMessage()
    assert words in record.getMessage()
