"""``deepmd-gnn uncertainty``: error bars of one model, from the features of its training data."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepmd_gnn.commands.parsers import add_command, add_json_argument, add_label_arguments, watched
from deepmd_gnn.files.model_files import ModelFileError
from deepmd_gnn.files.whole_file import refuse_existing

_EXAMPLES = """\
examples:
  deepmd-gnn uncertainty model.ckpt.pt data/train --valid data/valid     into the checkpoint itself
  deepmd-gnn uncertainty model.ckpt.pt train.xyz --valid valid.xyz -o sure.pt
  deepmd-gnn evaluate sure.pt test.xyz -o out.xyz                        with MACE_energy_std
  dp --pt freeze -c sure.pt -o sure.pth                                  frozen files keep it
  deepmd-gnn uncertainty model.ckpt.pt data/train --valid data/valid -o sure.pt --committee members
"""


def add_parsers(subparsers: Any) -> None:
    """Add ``uncertainty``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "uncertainty",
        "give a trained model error bars (LLPR)",
        _EXAMPLES,
        "Accumulate the features before the last layer over the training data, calibrate standard deviations on other frames, and "
        "store what gives them beside the weights. Energies and forces stay what they are.",
    )
    parser.add_argument("model", type=Path, help="checkpoint (.pt) of a mace model")
    parser.add_argument("data", type=Path, nargs="+", help="what it was trained on: folders, or whatever `deepmd-gnn data` reads")  # fmt: skip
    parser.add_argument("--valid", type=Path, nargs="+", metavar="DATA", help="frames with reference energies that it was not trained on; "
                        "without, every tenth training frame calibrates, and deviations come out too small")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, help="new checkpoint (default: MODEL itself)")
    parser.add_argument("--regularisation", type=float, metavar="RATIO", help="what is added to the covariance, in units of its largest "
                        "eigenvalue (default: the smallest of the likely ones)")  # fmt: skip
    parser.add_argument("--draws", type=int, default=8, help="draws from the posterior, for forces (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of the draws (default: %(default)s)")
    parser.add_argument("--committee", type=Path, metavar="FOLDER", help="also write members of a committee, drawn from the posterior, as checkpoints")  # fmt: skip
    parser.add_argument("--members", type=int, default=4, help="of --committee (default: %(default)s)")
    parser.add_argument("--head", help="branch of a multi-task checkpoint")
    add_label_arguments(parser, "name of the reference {name} in the files")
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the posterior and store it.

    Parameters
    ----------
    arguments : argparse.Namespace
        Parsed arguments.

    Returns
    -------
    int
        0.
    """
    _check(arguments)
    from deepmd_gnn.datasets.labels import LabelReader, chosen_keys
    from deepmd_gnn.files.summary import choose_model, summarise
    from deepmd_gnn.tools.evaluation import load_potential
    from deepmd_gnn.tools.posterior import PosteriorMaker
    from deepmd_gnn.tools.uncertain_checkpoint import store, write_members
    from deepmd_gnn.tools.uncertainty import network_of

    summary = summarise(arguments.model)
    if summary["kind"] != "pt":
        raise ModelFileError(
            f"{arguments.model}: is a {summary['kind_name']}. Give the checkpoint (.pt) that it was frozen from, and freeze "
            "the result: frozen files keep the uncertainty."
        )
    head = choose_model(summary, arguments.head)["head"]
    potential = load_potential(arguments.model, head)
    try:
        network_of(potential)
    except ValueError as error:
        raise ModelFileError(f"{arguments.model}: {error}") from error
    maker = PosteriorMaker(
        potential,
        LabelReader(chosen_keys(vars(arguments))),
        ridge=arguments.regularisation,
        draws=max(arguments.draws, arguments.members if arguments.committee else 1),
        seed=arguments.seed,
    )
    if arguments.valid:
        maker.add(watched(_frames(arguments.data), delay=1.0))
        others = _frames(arguments.valid)
    else:
        others = iter(maker.add_and_hold_out(watched(_frames(arguments.data), delay=1.0)))
    posterior = maker.finish(watched(others, delay=1.0), held_out=not arguments.valid)
    output = arguments.output or arguments.model
    if arguments.committee:
        names = _last_layer(arguments.model, head)
        few = type(posterior)(
            posterior.factor, posterior.members[: arguments.members], posterior.force_scale, {}
        )
        written = write_members(arguments.model, arguments.committee, head, few, names)
    else:
        written = []
    store(arguments.model, output, head, posterior)
    _report(posterior.description, output, written, arguments)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        refuse_existing(arguments.output)
        if arguments.output.suffix != ".pt":
            raise ValueError(f"{arguments.output}: a checkpoint is written; end its name with .pt.")
    folder = arguments.committee
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.glob("member_*.pt"))):
        raise ValueError(f"--committee {folder}: is there already. Give another name, or remove it first.")
    for name in ("draws", "members"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} {getattr(arguments, name)} must be 1 or more.")
    if arguments.regularisation is not None and not 0.0 < arguments.regularisation < float("inf"):
        raise ValueError(f"--regularisation {arguments.regularisation} must be a positive number.")


def _frames(paths: list[Path]) -> Iterator[Any]:
    from deepmd_gnn.datasets.sources import read_frames

    for path in paths:
        yield from read_frames(path)


def _last_layer(model: Path, head: str | None) -> list[str]:
    """Names of the weights of the last layer; a scripted model has forgotten them."""
    import torch
    from deepmd.pt.model.model import get_model

    content = torch.load(model, map_location="cpu", weights_only=True)
    section = content.get("model", content)["_extra_state"]["model_params"]
    built: Any = get_model(section["model_dict"][head] if head else section)
    names: list[str] = built.energy_model.last_layer()
    return names


def _report(
    description: dict[str, Any], output: Path, written: list[Path], arguments: argparse.Namespace
) -> None:
    files = [str(path) for path in written]
    if arguments.json:
        sys.stdout.write(
            json.dumps({**description, "output": str(output), "committee": files}, indent=2) + "\n"
        )
        return
    if not arguments.valid:
        sys.stderr.write(
            "Note: without --valid the deviations are calibrated on frames that the model has been trained on. Expect them "
            "to be too small.\n"
        )
    forces = f"{description['force_scale']:.3g} (from {description['force_frames']} frames)"
    lines = {
        "Features": f"{description['features']} of the last layer, over {description['frames']} frames",
        "Calibrated on": f"{description['calibration_frames']} {description['calibrated_on']}",
        "alpha": f"{description['alpha']:.4g}",
        "Regularisation": f"{description['regularisation']:.3g} eV²",
        "Scale of forces": forces if description["force_frames"] else "1 (no forces in these frames)",
        "Committee": ", ".join(files),
    }
    text = "".join(f"{name:<17}{value}\n" for name, value in lines.items() if value)
    sys.stdout.write(f"{text}{output}\n")
