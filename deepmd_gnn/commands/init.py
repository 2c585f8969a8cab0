"""``deepmd-gnn init``: a complete input for ``dp train`` from a data folder."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmd_gnn.commands.parsers import add_command
from deepmd_gnn.files.whole_file import refuse_existing, whole_file

if TYPE_CHECKING:
    from deepmd_gnn.datasets.summary import DataFolder
    from deepmd_gnn.tools.native_translation import Fate
    from deepmd_gnn.tools.training_input import Choices

_EXAMPLES = """\
examples:
  deepmd-gnn init data -o input.json                             the recommended recipe
  deepmd-gnn init data -o input.json --time 2h                   as many steps as fit into two hours of this machine
  deepmd-gnn init data -o input.json --set model.r_max=6.0 --set training.numb_steps=50000
  deepmd-gnn init data -o input.json --like mace_run_train.yaml  what native MACE would do
  deepmd-gnn init data -o input.json --like run.sh               the same of a script, or of the command line in quotes

Next: dp --pt train input.json
"""
# Times through the data below which a time budget is called small.
_FEW = 20
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def add_parsers(subparsers: Any) -> None:
    """Add ``init``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "init",
        "write a complete input for `dp train`",
        _EXAMPLES,
        "Write a complete input for `dp train` from a data folder. Every choice is explained in it: in JSON by a key with an "
        "underscore before it, which DeePMD-kit passes over, in YAML by a comment.",
    )
    parser.add_argument("data", type=Path, help="folder of `deepmd-gnn data`, or any with data of DeePMD-kit")
    parser.add_argument("-o", "--output", type=Path, default=Path("input.json"), help="new file, .json or .yaml (default: %(default)s)")  # fmt: skip
    parser.add_argument("--size", choices=("small", "medium", "large"), default="medium", help="of the network (default: %(default)s)")  # fmt: skip
    parser.add_argument("--time", metavar="T", help="time for training on this machine, such as 90s, 30m, 2h: one step is measured")  # fmt: skip
    parser.add_argument("--e0", type=Path, help="file with energies of isolated atoms (default: e0.json of the folder)")  # fmt: skip
    parser.add_argument("--like", metavar="FILE", help="flags of mace_run_train: YAML, a script, or the command line itself")  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a value of your own, as JSON; may be repeated"
    )  # fmt: skip
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the input.

    Parameters
    ----------
    arguments : argparse.Namespace
        Parsed arguments.

    Returns
    -------
    int
        0.
    """
    from deepmd_gnn.datasets.summary import summarise_folder
    from deepmd_gnn.tools.training_input import recipe, set_steps

    refuse_existing(arguments.output)
    if arguments.output.suffix not in (".json", ".yaml", ".yml"):
        raise ValueError(f"output '{arguments.output}' must end in .json or .yaml.")
    if arguments.e0 is not None and not arguments.e0.is_file():
        raise ValueError(f"--e0 {arguments.e0}: no such file.")
    fates: list[Fate] = []
    start: tuple[Path, str] | None = None
    if arguments.like:
        choices, fates, start, data = _like(arguments)
        if arguments.e0 is not None:
            choices.set("model", "atomic_energies", str(arguments.e0), "given by --e0")
    else:
        data = summarise_folder(arguments.data)
        choices = recipe(data, arguments.size, arguments.e0)
    for text in arguments.set:
        path, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: must be SECTION.KEY=VALUE.")
        if path == "training.numb_steps":
            set_steps(choices, int(value), "given by --set")
        else:
            choices.override(path, _json(value))
    if arguments.time:
        from deepmd_gnn.tools.step_time import seconds_per_step

        budget = _seconds(arguments.time)
        each = seconds_per_step(choices.values, data)
        set_steps(
            choices, int(budget / each), _affordable(arguments.time, each, budget, choices, data.train.frames)
        )
    with whole_file(arguments.output) as unfinished:
        unfinished.write_text(choices.as_json() if arguments.output.suffix == ".json" else choices.as_yaml())
    sys.stdout.write(_told(choices, fates, start, arguments.output))
    return 0


def _affordable(time: str, each: float, budget: float, choices: "Choices", frames: int) -> str:
    """Say how far a budget goes: many times through the data is what a model needs."""
    batch = choices.values["training"]["training_data"]["batch_size"]
    through = budget / each * batch / frames if isinstance(batch, int) else None
    told = f"{time} at {each:.3g} s per step, measured here"
    if through is None:
        return told
    told += f": {through:.2g} times through {frames} frames"
    if through >= _FEW:
        return told
    smaller = "" if choices.values["model"].get("max_L") == 0 else ", or --size small"
    return told + f", which is few (200 are recommended): more time{smaller}"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text[:-1]) * _UNITS[text[-1:]]
    except (KeyError, ValueError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--time {text}: must be a number with s, m, h or d, such as 30m.")
    return seconds


def _like(arguments: argparse.Namespace) -> "tuple[Choices, list[Fate], tuple[Path, str] | None, DataFolder]":
    from deepmd_gnn.datasets.summary import summarise_folder
    from deepmd_gnn.tools.native_options import read_native_options
    from deepmd_gnn.tools.native_translation import data_arguments, translate

    options = read_native_options(arguments.like)
    if not arguments.data.exists():
        _convert_data(arguments.data, data_arguments(options))
    data = summarise_folder(arguments.data)
    section, start = None, None
    foundation = options.get("foundation_model")
    if foundation:
        source, stem = _foundation(str(foundation))
        target = arguments.output.with_name(f"{stem}_start.pt")
        section = _convert_model(source, target, options.get("foundation_head"), data.train.type_map)
        refit = str(options.get("E0s", "")).lower() not in ("foundation", "estimated")
        start = (target, "--finetune" if refit else "--init-model")
    choices, fates = translate(options, data, section)
    return choices, fates, start, data


def _convert_data(folder: Path, native: dict[str, Any]) -> None:
    from deepmd_gnn.datasets.conversion import Conversion, convert
    from deepmd_gnn.datasets.labels import DEFAULT_KEYS
    from deepmd_gnn.datasets.report import report_text

    if not native["train"]:
        raise ValueError(f"{folder}: no such folder, and --like names no train_file to make it from.")
    keys = {name: (native["keys"][name], *DEFAULT_KEYS[name]) if name in native["keys"] else DEFAULT_KEYS[name] for name in DEFAULT_KEYS}  # fmt: skip
    files = {part: native[part] for part in ("train", "valid", "test")}
    job = Conversion(
        files, keys, valid_fraction=native["valid_fraction"], seed=native["seed"], fparam=native["fparam"]
    )
    sys.stdout.write(report_text(convert(job, folder), folder).rpartition("\nNext:")[0] + "\n")


def _foundation(given: str) -> tuple[Path, str]:
    """The file that native's ``--foundation_model`` means, and a name for what is made of it."""
    source = Path(given)
    if source.is_file():
        return source, source.stem
    from deepmd_gnn.commands.convert import fetched
    from deepmd_gnn.native.catalogue import name_of_flag

    name = name_of_flag(given)
    if name is None:
        raise ValueError(
            f"--foundation_model {given}: no such file, and mace-torch knows no such model (`deepmd-gnn convert --list`). Name "
            "one of these or a .model, or leave the flag out to train from the beginning."
        )
    return fetched(name), name.replace(":", "-")


def _convert_model(source: Path, target: Path, head: str | None, elements: list[str]) -> dict[str, Any]:
    from deepmd_gnn.native.conversion import convert, model_section

    if target.exists():
        raise ValueError(f"{target}: is there already. Remove it first, or move it elsewhere.")
    proposal = target.with_suffix(".json")  # an input for other data than these
    kept = proposal.exists()
    section = model_section(convert(str(source), str(target), head, elements))
    del section["atomic_energies"]  # they come with the weights
    if not kept:
        proposal.unlink()
    return section


def _told(choices: "Choices", fates: "list[Fate]", start: tuple[Path, str] | None, output: Path) -> str:
    from deepmd_gnn.tools.native_translation import fates_by_kind

    lines = []
    if fates:
        for kind, members in fates_by_kind(fates):
            lines += [f"{kind}:", *(f"  {fate}" for fate in members), ""] if members else []
    else:
        for section, reasons in choices.reasons.items():
            lines.append(f"{section}:")
            for key, reason in reasons.items():
                value = choices.values[section].get(key)
                shown = json.dumps(value, ensure_ascii=False)
                lines.append(f"  {key} {shown if len(shown) < 60 else '…'}: {reason}")
    command = f"dp --pt train {output}"
    if start is not None:
        command += f" {start[1]} {start[0]}"
    lines += [str(output), f"Next: {command}"]
    return "\n".join(lines) + "\n"
