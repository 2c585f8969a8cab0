"""What stands around the host's trainers: checkpoints that are cut short, and how new ones are written."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_network import ToyModel

from deepmd_gnn.host import checkpoint_files
from deepmd_gnn.host.checkpoint_files import check_whole, checking_checkpoints, looking_first, writing_whole


@pytest.fixture(scope="module")
def model():
    return ToyModel(["O", "H"])


def checkpoint(path, step=5):
    extra = {"train_infos": {"step": step, "lr": 0.1}, "model_params": {}}
    torch.save({"model": {"_extra_state": extra}}, path)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:100])
    return path


# --- checkpoints that are read ----------------------------------------------------------------------------------


def test_newest_whole_checkpoint_is_named(tmp_path):
    for step in (8, 20, 100):
        checkpoint(tmp_path / f"model.ckpt-{step}.pt")
    checkpoint(tmp_path / "other-300.pt")
    check_whole(tmp_path / "model.ckpt-100.pt")
    cut(tmp_path / "model.ckpt-100.pt")
    words = r"model.ckpt-100.pt is cut short \(100 bytes\).* Continue from .*/model.ckpt-20.pt, the newest whole one"
    with pytest.raises(ValueError, match=words):
        check_whole(tmp_path / "model.ckpt-100.pt")
    # The host's link without a number, to the newest.
    os.symlink("model.ckpt-100.pt", tmp_path / "model.ckpt.pt")
    with pytest.raises(ValueError, match=r"Continue from .*/model.ckpt-20.pt"):
        check_whole(tmp_path / "model.ckpt.pt")


def test_no_whole_checkpoint_is_left(tmp_path):
    with pytest.raises(ValueError, match="There is no whole one beside it"):
        check_whole(cut(checkpoint(tmp_path / "model.ckpt-8.pt")))
    check_whole(tmp_path / "missing.pt")  # the host's own message


@pytest.mark.parametrize("option", ["restart_model", "init_model", "finetune_model"])
def test_trainers_are_not_made_for_cut_checkpoints(option, tmp_path):
    made = []

    def trainer(self, config, init_model=None, restart_model=None, finetune_model=None):
        made.append(config)

    path = cut(checkpoint(tmp_path / "a.pt"))
    wrapped = checking_checkpoints(trainer)
    with pytest.raises(ValueError, match="is cut short"):
        wrapped(None, {}, **{option: str(path)})
    wrapped(None, {"a": 1}, **{option: str(tmp_path / "frozen.pth")})
    assert made == [{"a": 1}]


# --- checkpoints that are written -------------------------------------------------------------------------------


class Trainer:
    """What the replacements read of the host's two trainers."""

    def __init__(self, model, rank=0, steps=5):
        self.model, self.rank, self.num_steps, self.multi_task = model, rank, steps, False
        self.pruned = []

    def write(self, path, data, store=None, dies=False):
        """As the host: in place, and then the store removes old files."""
        torch.save(data, path)
        self.written = Path(path)
        if dies:
            raise KeyboardInterrupt
        if store is not None:
            store.prune(Path(path))

    def prune(self, path):
        assert path.is_file()
        self.pruned.append(path)


def data():
    return {"model": {"_extra_state": {"train_infos": {"step": 5, "lr": 0.1}}}}


def stored_step(path):
    return torch.load(path, weights_only=True)["model"]["_extra_state"]["train_infos"]["step"]


@pytest.mark.parametrize(("steps", "expected"), [(8, 6), (0, 5)])
def test_restarts_go_on_with_the_next_step(model, steps, expected, tmp_path):
    """The host notes the index of the last step, from which its trainer would begin anew."""
    trainer, path, content = Trainer(model, steps=steps), tmp_path / "new" / "a.pt", data()
    infos = content["model"]["_extra_state"]["train_infos"]
    writing_whole(Trainer.write)(trainer, path, content, store=trainer)
    assert stored_step(path) == expected
    assert trainer.pruned == [path]
    assert trainer.written != path  # under another name until it is whole
    assert infos == {"step": 5, "lr": 0.1}  # the trainer's own, with which it goes on


def test_the_exportable_trainer_counts_itself(model, tmp_path):
    writing_whole(Trainer.write)(Trainer(model), tmp_path / "a.pt", data())
    assert stored_step(tmp_path / "a.pt") == 5


def test_a_training_that_ends_meanwhile_leaves_the_file_of_before(model, tmp_path):
    path = checkpoint(tmp_path / "a.pt", step=3)
    trainer = Trainer(model)
    with pytest.raises(KeyboardInterrupt):
        writing_whole(Trainer.write)(trainer, path, data(), store=trainer, dies=True)
    assert stored_step(path) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
    assert trainer.pruned == []


@pytest.mark.parametrize("others", [{"model": torch.nn.Linear(1, 1)}, {"rank": 1}])
def test_other_models_and_ranks_are_the_hosts(others, model, tmp_path):
    trainer = Trainer(**{"model": model, **others})
    writing_whole(Trainer.write)(trainer, tmp_path / "a.pt", data(), store=trainer)
    assert trainer.written == tmp_path / "a.pt"
    assert stored_step(tmp_path / "a.pt") == 5


@pytest.mark.parametrize("compiled", [False, True])
def test_data_are_looked_at_before_the_first_step(compiled, model, monkeypatch):
    calls = []
    monkeypatch.setattr(checkpoint_files, "check_trainer", lambda trainer: calls.append("look"))
    run = looking_first(lambda trainer: calls.append("train"))
    ours = SimpleNamespace(original_model=model) if compiled else model
    run(Trainer(ours))
    run(Trainer(ours, rank=1))
    run(Trainer(torch.nn.Linear(1, 1)))
    assert calls == ["look", "train", "train", "train"]
