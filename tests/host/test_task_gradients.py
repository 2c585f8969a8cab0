"""Contributions of tasks to what they share."""

import logging

import pytest
import torch

from deepmd_gnn.host.task_gradients import TaskGradients, contributions, watch_gradients


def models():
    """Two tasks: a common layer, and one each; a part that is not trained."""
    common = torch.nn.Linear(2, 2, bias=False)
    tasks = {name: torch.nn.Sequential(common, torch.nn.Linear(2, 1)) for name in ("a", "b")}
    return common, tasks


def test_norms(caplog):
    """Of the shared weights only, by the task of the step; evaluations in between do not count."""
    common, tasks = models()
    caplog.set_level(logging.INFO, logger="deepmd.deepmd_gnn")
    watch = TaskGradients(tasks, {"a": 0.75, "b": 0.25})
    assert watch.shared == [common.weight]
    module = torch.nn.Identity()
    for step in range(40):
        name, size = ("a", 1.0) if step % 2 else ("b", 3.0)
        watch.note_task(module.train(), (), {"task_key": name})
        watch.note_task(module.eval(), (), {"task_key": "a"})
        common.weight.grad = torch.full((2, 2), size if step < 38 else 0.0)
        tasks[name][1].weight.grad = torch.full((1, 2), 1e6)
        watch.note_gradients()
    assert len(watch.first["a"]) == len(watch.last["b"]) == 20
    watch.tell_end()
    # 20 steps each; 2 and 6 are the norms, and the last one of each is zero.
    expected = "a 50% (norm 1.9, 75% of the steps), b 50% (norm 5.7, 25% of the steps)"
    for record, when in zip(caplog.records, ("beginning", "end"), strict=True):
        assert record.getMessage() == f"mace model: gradients of the shared weights at the {when}: {expected}"


def test_contributions():
    assert (
        contributions({"a": 4.0, "b": 4.0}, {"a": 0.9, "b": 0.1})
        == "a 90% (norm 4, 90% of the steps), b 10% (norm 4, 10% of the steps)"
    )
    assert contributions({"a": 0.0}, {"a": 1.0}).startswith("a 0%")


@pytest.mark.parametrize("change", [{"multi_task": False}, {"world_size": 2}, {"model_keys": ["a"]}])
def test_nothing_to_watch(change):
    _, tasks = models()
    kept = {
        "multi_task": True,
        "world_size": 1,
        "model_keys": ["a", "b"],
        "model_prob": [0.5, 0.5],
        "model": tasks,
    }
    kept |= change
    if "model_keys" in change:
        kept["model_prob"] = [1.0]
    assert watch_gradients(type("Trainer", (), kept)()) is None
