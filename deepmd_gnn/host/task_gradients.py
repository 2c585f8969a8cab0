"""How much each task of a training moves the weights that tasks share: told in the log, at the beginning and at the end."""

import logging
from collections import deque
from typing import Any

import torch

log = logging.getLogger("deepmd.deepmd_gnn")
# Steps of a task that are averaged.
_STEPS = 20


class TaskGradients:
    """Norms of the gradients of shared weights, as the optimiser gets them.

    Parameters
    ----------
    tasks : dict[str, torch.nn.Module]
        Models that share parameters.
    shares : dict[str, float]
        Shares of the steps.
    """

    def __init__(self, tasks: dict[str, torch.nn.Module], shares: dict[str, float]) -> None:
        owners: dict[int, int] = {}
        parameters = {}
        for model in tasks.values():
            for parameter in model.parameters():
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
                parameters[id(parameter)] = parameter
        self.shared = [
            parameter for key, parameter in parameters.items() if owners[key] > 1 and parameter.requires_grad
        ]
        self.shares = shares
        self.first: dict[str, list[torch.Tensor]] = {name: [] for name in tasks}
        self.last: dict[str, deque[torch.Tensor]] = {name: deque(maxlen=_STEPS) for name in tasks}
        self.task: str | None = None

    def note_task(self, module: torch.nn.Module, _: Any, named: dict[str, Any]) -> None:
        """Before the trainer's wrapper is called."""
        if module.training:
            self.task = named.get("task_key")

    def note_gradients(self, *_: Any) -> None:
        """Before a step of the optimiser."""
        if self.task not in self.first:
            return
        # Tensors until they are told: a number would make a GPU's steps wait for each other.
        gradients = [parameter.grad for parameter in self.shared if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        self.last[self.task].append(norm)
        if len(self.first[self.task]) < _STEPS:
            self.first[self.task].append(norm)
            if all(len(values) == _STEPS for values in self.first.values()):
                self.tell("at the beginning", self.first)

    def tell(
        self, when: str, norms: "dict[str, list[torch.Tensor]] | dict[str, deque[torch.Tensor]]"
    ) -> None:
        """Write a line about the tasks into the log, from norms of shape ()."""
        means = {name: sum(map(float, values)) / max(1, len(values)) for name, values in norms.items()}
        log.info(
            "mace model: gradients of the shared weights %s: %s", when, contributions(means, self.shares)
        )

    def tell_end(self) -> None:
        """Write the last line."""
        self.tell("at the end", self.last)


def contributions(norms: dict[str, float], shares: dict[str, float]) -> str:
    """Norm times share of the steps for each task, as shares of their sum.

    Parameters
    ----------
    norms : dict[str, float]
        Mean norm of a gradient.
    shares : dict[str, float]
        Of the steps.

    Returns
    -------
    str
    """
    products = {name: norm * shares[name] for name, norm in norms.items()}
    total = sum(products.values()) or 1.0
    return ", ".join(
        f"{name} {product / total:.0%} (norm {norms[name]:.3g}, {shares[name]:.0%} of the steps)"
        for name, product in products.items()
    )


def watch_gradients(trainer: Any) -> TaskGradients | None:
    """Begin to note the gradients of a multi-task training.

    Parameters
    ----------
    trainer : Trainer
        Of the host, of either backend.

    Returns
    -------
    TaskGradients or None
        None where nothing is shared, or several processes have parts of the gradients.
    """
    if not trainer.multi_task or getattr(trainer, "world_size", 1) > 1:
        return None
    models = trainer.model
    shares = dict(zip(trainer.model_keys, map(float, trainer.model_prob), strict=True))
    watch = TaskGradients({name: models[name] for name in trainer.model_keys}, shares)
    if not watch.shared:
        return None
    trainer.wrapper.register_forward_pre_hook(watch.note_task, with_kwargs=True)
    trainer.optimizer.register_step_pre_hook(watch.note_gradients)
    return watch
