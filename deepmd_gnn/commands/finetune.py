"""``deepmd-gnn finetune``: a foundation model and a data folder to a model of one's own, in one command."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from deepmd_gnn.commands.parsers import add_command
from deepmd_gnn.files.whole_file import refuse_existing

_EXAMPLES = """\
examples:
  deepmd-gnn finetune foundation.model data -o tuned                     writes tuned/ and trains; the result is tuned/finetuned.pt
  deepmd-gnn finetune mace-mp:small data -o tuned --replay 200           keeps what the foundation knew near these structures
  deepmd-gnn finetune model.ckpt.pt data -o tuned --adapters 4 --dry-run   the files and the command only
  deepmd-gnn finetune --restart tuned                                    go on after an interruption
"""


def add_parsers(subparsers: Any) -> None:
    """Add ``finetune``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "finetune",
        "fine-tune a foundation model on a data folder",
        _EXAMPLES,
        "Write what a fine-tuning needs, run `dp --pt train`, and take the new task out as a model of its own: input, E0 of the new level of "
        "theory, and with --replay frames that the foundation labels itself, as a second task that holds the network.",
    )
    parser.add_argument(
        "foundation",
        nargs="?",
        help="checkpoint (.pt), native .model, or a name (`deepmd-gnn convert --list`)",
    )
    parser.add_argument("data", nargs="?", type=Path, help="folder of `deepmd-gnn data`")
    parser.add_argument("-o", "--output", type=Path, help="folder for everything; must not exist")
    parser.add_argument(
        "--restart", type=Path, metavar="FOLDER", help="go on with an interrupted fine-tuning"
    )
    parser.add_argument("--head", help="head of the foundation, or branch of a multi-task checkpoint")
    parser.add_argument("--replay", type=int, default=0, metavar="N", help="frames that the foundation labels and that are trained along (default: none)")  # fmt: skip
    parser.add_argument("--replay-from", type=Path, nargs="+", default=[], metavar="FILE", help="structures for these frames (extended XYZ, or what ASE reads); "
                        "without, training frames are perturbed")  # fmt: skip
    parser.add_argument("--replay-weight", type=float, default=0.3, metavar="SHARE", help="share of the steps (default: %(default)s)")  # fmt: skip
    parser.add_argument("--displacement", type=float, default=0.1, metavar="Å", help="standard deviation of perturbed coordinates (default: %(default)s)")  # fmt: skip
    parser.add_argument("--adapters", type=int, metavar="RANK", help="train adapters of low rank (LoRA) instead of the weights")  # fmt: skip
    parser.add_argument("--freeze", nargs="+", default=[], metavar="PART", help="parts that are not trained, e.g. node_embedding interactions.0")  # fmt: skip
    parser.add_argument(
        "--rate", type=float, help="learning rate of the first step (default: 1e-3, of adapters 5e-3)"
    )
    parser.add_argument("--steps", type=int, help="number of steps (default: from the size of the data)")
    parser.add_argument("--patience", type=int, default=5, metavar="N", help="end the training after N validations (of twenty) without a smaller error; "
                        "0: never (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of the order of frames and of perturbations (default: %(default)s)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="write the files, and tell the command")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune.

    Parameters
    ----------
    arguments : argparse.Namespace
        Parsed arguments.

    Returns
    -------
    int
        0, or that of ``dp``.
    """
    if arguments.restart is not None:
        return _train(arguments.restart, "--restart", "model.ckpt.pt")
    _check(arguments)
    from deepmd_gnn.commands.convert import located
    from deepmd_gnn.datasets.summary import summarise_folder
    from deepmd_gnn.host.early_stop import PATIENCE
    from deepmd_gnn.native import fine_tuned
    from deepmd_gnn.native.conversion import save_checkpoint
    from deepmd_gnn.tools import fine_tuning
    from deepmd_gnn.tools.evaluation import load_potential

    data = summarise_folder(arguments.data.resolve())
    model, new = fine_tuned.load_foundation(
        located(arguments.foundation), arguments.head, data.train.type_map
    )
    fine_tuned.check_trained(model, new, tuple(arguments.freeze), adapters=arguments.adapters is not None)
    if arguments.replay and not arguments.replay_from:
        fine_tuning.check_replay(data, new)
    arguments.output.mkdir(parents=True)
    job = fine_tuning.Job(
        arguments.output.resolve(), arguments.replay, tuple(arguments.replay_from), arguments.replay_weight,
        arguments.displacement, arguments.adapters, tuple(arguments.freeze), arguments.rate, arguments.steps, arguments.seed,
        arguments.patience,
    )  # fmt: skip
    save_checkpoint(model, job.folder / "foundation.pt")
    potential = load_potential(job.folder / "foundation.pt")
    told = [f"foundation: {arguments.foundation}, elements {' '.join(model.type_map)}"]
    if new:
        told.append(f"new elements, whose weights start at random: {' '.join(new)}")
    energies, words = _energies(model, potential, data)
    told += [words, *(f"  {name} {value:.6f} eV" for name, value in energies.items())]
    replay = None
    if job.replay:
        frames = fine_tuning.replay_frames(data, job, new)
        replay = fine_tuning.replay_data(potential, frames, job.folder)
        told.append(
            f"replay: {replay.train.frames} frames labelled by the foundation, {job.replay_weight:.0%} of the steps; the new data have "
            f"{1.0 - job.replay_weight:.0%}"
        )
    replayed = replay is not None
    fine_tuned.save_start(model, energies, job.folder / fine_tuning.START, replayed=replayed)
    chosen = fine_tuning.choices(fine_tuned.sections(model, replayed=replayed), data, replay, job)
    (job.folder / "input.json").write_text(chosen.as_json())
    sys.stdout.write("\n".join(told) + "\n")
    if arguments.dry_run:
        stop = f"{PATIENCE}={job.patience} " if job.patience else ""
        sys.stdout.write(f"next: cd {job.folder} && {stop}dp --pt train input.json --init-model {fine_tuning.START}\n"
                         f"then: deepmd-gnn finetune --restart {job.folder}      takes the result out\n")  # fmt: skip
        return 0
    return _train(job.folder, "--init-model", fine_tuning.START)


def _energies(model: Any, potential: Any, data: Any) -> tuple[dict[str, float], str]:
    """E0 of the new level of theory, eV by element, and where they are from."""
    from deepmd_gnn.config.isolated_atoms import read_atomic_energies
    from deepmd_gnn.tools.fine_tuning import estimated_energies

    if data.e0 is not None:
        return read_atomic_energies(str(data.e0), list(model.type_map)), f"E0: isolated atoms of {data.e0}"
    before = dict(zip(model.type_map, model.out_bias.flatten().tolist(), strict=True))
    energies, rest = estimated_energies(before, potential, data.train)
    if not energies:
        return energies, "E0: those of the foundation; the data have no energies"
    return (
        energies,
        f"E0: least squares of the differences to the foundation's own energies, which leave {1e3 * rest:.3g} meV/atom",
    )


def _check(arguments: argparse.Namespace) -> None:
    if arguments.foundation is None or arguments.data is None or arguments.output is None:
        raise ValueError("finetune needs a FOUNDATION, a DATA folder and -o FOLDER (or --restart FOLDER).")
    refuse_existing(arguments.output)
    if arguments.replay < 0 or not 0.0 < arguments.replay_weight < 1.0:
        raise ValueError("--replay is a number of frames, --replay-weight a share between 0 and 1.")
    if arguments.patience < 0:
        raise ValueError(f"--patience {arguments.patience} must be a number of validations, or 0.")
    if arguments.replay_from and not arguments.replay:
        raise ValueError("--replay-from: say with --replay how many of the frames.")
    if arguments.adapters is not None and (arguments.replay or arguments.freeze):
        other = "--replay, whose tasks share the network" if arguments.replay else "--freeze"
        raise ValueError(f"--adapters cannot be combined with {other}. Leave one of the two out.")


def _train(folder: Path, how: str, start: str) -> int:
    """Train, or go on, and take the new task out."""
    from deepmd_gnn.host.early_stop import PATIENCE
    from deepmd_gnn.native.fine_tuned import extract
    from deepmd_gnn.tools import fine_tuning

    command = [
        sys.executable,
        "-m",
        "deepmd",
        "--pt",
        "train",
        "input.json",
        how,
        start,
        "--skip-neighbor-stat",
    ]
    checkpoint = folder / "model.ckpt.pt"
    if how == "--init-model" or not fine_tuning.is_finished(folder):
        if how == "--restart" and not checkpoint.is_file():
            raise ValueError(f"{folder}: there is no model.ckpt.pt to go on from.")
        environment = {**os.environ, PATIENCE: str(fine_tuning.patience(folder))}
        status = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
        if status:
            sys.stderr.write(
                f"deepmd-gnn: the training ended with status {status}. Go on with: deepmd-gnn finetune --restart {folder}\n"
            )
            return status
    result, best = extract(folder)
    stop = fine_tuning.ended_early(folder)
    if stop is not None and stop.step == best.last:
        sys.stdout.write(f"ended early, with step {stop.step}: {stop.reason}\n")
        if stop.best < best.step:
            sys.stderr.write(f"Note: of step {stop.best} there is no checkpoint; nothing that was trained longer does better. "
                             f"{fine_tuning.START} is what it began with; try a smaller --rate.\n")  # fmt: skip
    sys.stdout.write(
        f"{result}: the model of step {best.step} of {best.last} ({best.reason})\nnext: deepmd-gnn check {result}\n      dp --pt-expt freeze -c {result} -o {folder / 'finetuned.pt2'}\n"
    )
    return 0
