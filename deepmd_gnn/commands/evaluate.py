"""``deepmd-gnn evaluate``: a model on the frames of a file."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmd_gnn.commands.parsers import (
    add_command,
    add_json_argument,
    add_label_arguments,
    add_periodicity_argument,
    watched,
)
from deepmd_gnn.files.whole_file import refuse_existing, whole_file

if TYPE_CHECKING:
    import numpy as np

    from deepmd_gnn.datasets.frames import Frame
    from deepmd_gnn.tools.batch_evaluation import BatchEvaluation, Prediction
    from deepmd_gnn.tools.error_bars import ErrorBars
    from deepmd_gnn.tools.errors import ErrorTable

_EXAMPLES = """\
examples:
  deepmd-gnn evaluate mace.pt2 test.xyz -o out.xyz                  as mace_eval_configs
  deepmd-gnn evaluate mace.pth data/test -o out.xyz                 frames of DeePMD-kit
  deepmd-gnn evaluate a.pth test.xyz -o out.xyz --committee b.pth c.pth
  deepmd-gnn evaluate mace.pth test.xyz -o out.xyz --descriptors invariant --node-energies
  deepmd-gnn plot parity out.xyz -o parity.png --by element

Writes MACE_energy, MACE_forces, MACE_stress beside what the file has; of a committee the mean and its deviation; of one
model with uncertainty (deepmd-gnn uncertainty) MACE_energy_std (eV/atom) and MACE_node_energies_std (eV).
"""


def add_parsers(subparsers: Any) -> None:
    """Add ``evaluate``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "evaluate",
        "energies, forces, stress and errors on the frames of a file",
        _EXAMPLES,
        "Evaluate a model on all frames of a file, write them with the results, and print the errors where the file has "
        "references. Runs the program in the model file.",
    )
    parser.add_argument("model", type=Path, help="checkpoint (.pt) or frozen model (.pth, .pt2, .pte)")
    parser.add_argument("configs", type=Path, metavar="FILE", help="extended XYZ, or whatever `deepmd-gnn data` reads")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, help="new file in extended XYZ")
    parser.add_argument(
        "--committee", type=Path, nargs="+", default=[], metavar="MODEL", help="other members"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="frames of a batch, at most (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--descriptors", choices=("invariant", "all"), help="node features of all layers: scalars only, or all components"
    )  # fmt: skip
    parser.add_argument(
        "--aggregate", choices=("mean", "per_element_mean"), help="descriptors: mean over atoms instead of one row an atom"
    )  # fmt: skip
    parser.add_argument("--node-energies", action="store_true", help="energies of the atoms as well")
    parser.add_argument("--forces-std", action="store_true", help="standard deviations of forces of a model with uncertainty, "
                        "a backward pass for each of its draws")  # fmt: skip
    parser.add_argument("--prefix", default="MACE_", help="of the names in the output (default: %(default)s)")
    parser.add_argument("--head", help="branch of a multi-task checkpoint")
    add_label_arguments(parser, "name of the reference {name} in the file")
    parser.add_argument("--format", help="ASE's or dpdata's name of the file's format (default: found out)")
    add_periodicity_argument(parser)
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate.

    Parameters
    ----------
    arguments : argparse.Namespace
        Parsed arguments.

    Returns
    -------
    int
        0.
    """
    from deepmd_gnn.datasets.extxyz import write_extxyz
    from deepmd_gnn.datasets.labels import LabelReader, chosen_keys
    from deepmd_gnn.datasets.sources import read_frames
    from deepmd_gnn.tools.batch_evaluation import BatchEvaluation
    from deepmd_gnn.tools.error_bars import ErrorBars
    from deepmd_gnn.tools.errors import ErrorTable
    from deepmd_gnn.tools.evaluation import load_potential

    refuse_existing(arguments.output)
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size {arguments.batch_size} must be 1 or more.")
    if not arguments.configs.exists():
        raise ValueError(f"{arguments.configs}: no such file.")
    models = [load_potential(path, arguments.head) for path in (arguments.model, *arguments.committee)]
    evaluation = BatchEvaluation(
        models,
        arguments.batch_size,
        arguments.mixed_pbc,
        arguments.node_energies,
        _descriptors(arguments, models[0]),
        _deviations(arguments, models),
    )
    calibration = ErrorBars()
    table = ErrorTable()
    frames = watched(read_frames(arguments.configs, arguments.format), delay=1.0)
    with whole_file(arguments.output) as unfinished, unfinished.open("w") as file:
        count = write_extxyz(
            file,
            _results(
                frames, evaluation, LabelReader(chosen_keys(vars(arguments))), table, calibration, arguments
            ),
        )
    if evaluation.defaulted:
        sys.stderr.write(
            f"Note: {evaluation.defaulted} frames say nothing about charge, spin or what else the energy of the model depends on; "
            "they have its default values.\n"
        )
    if arguments.json:
        answer = {"frames": count, "output": str(arguments.output), "errors": table.to_dict()}
        answer |= {"energy_std": calibration.to_dict()} if calibration.deviations else {}
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        sys.stdout.write(table.text() + calibration.text() + f"{arguments.output}: {count} frames\n")
    return 0


def _results(
    frames: "Iterable[Frame]",
    evaluation: "BatchEvaluation",
    labels: Any,
    table: "ErrorTable",
    calibration: "ErrorBars",
    arguments: argparse.Namespace,
) -> "Iterator[Frame]":
    for frame, prediction in evaluation(frames):
        if prediction is None:
            continue
        known = labels.read(frame)
        table.add(frame, known, prediction.energy, prediction.forces, prediction.virial)
        if prediction.energy_deviation is not None:
            error = None if known.energy is None else (known.energy - prediction.energy) / frame.natoms
            calibration.add(prediction.energy_deviation, error)
        _put(frame, prediction, arguments.prefix, arguments.aggregate)
        yield frame


def _put(frame: "Frame", prediction: "Prediction", prefix: str, aggregate: str | None) -> None:
    """Put results beside what the file has, under native's names."""
    import numpy as np
    from ase.data import chemical_symbols

    # What ASE keeps apart comes into the file under its own name.
    for name, value in frame.results.items():
        array = np.asarray(value)
        (frame.arrays if array.ndim and len(array) == frame.natoms else frame.info)[name] = value
    frame.info[f"{prefix}energy"] = prediction.energy
    frame.arrays[f"{prefix}forces"] = prediction.forces
    volume = abs(float(np.linalg.det(frame.cell)))
    if prediction.virial is not None and volume > 1e-6:
        frame.info[f"{prefix}stress"] = (-prediction.virial / volume).reshape(9)
    if prediction.atom_energies is not None:
        frame.arrays[f"{prefix}node_energies"] = prediction.atom_energies
    if prediction.energy_deviation is not None:
        frame.info[f"{prefix}energy_std"] = prediction.energy_deviation
    if prediction.atom_deviations is not None:
        frame.arrays[f"{prefix}node_energies_std"] = prediction.atom_deviations
    if prediction.force_deviation is not None:
        frame.info[f"{prefix}max_forces_std"] = float(prediction.force_deviation.max())
        frame.arrays[f"{prefix}forces_std"] = prediction.force_deviation
    if prediction.descriptors is None:
        return
    if aggregate == "mean":
        frame.info[f"{prefix}descriptors"] = prediction.descriptors.mean(axis=0)
    elif aggregate == "per_element_mean":
        frame.info[f"{prefix}descriptors"] = {
            chemical_symbols[int(one)]: prediction.descriptors[frame.numbers == one].mean(axis=0).tolist()
            for one in np.unique(frame.numbers)
        }
    else:
        frame.arrays[f"{prefix}descriptors"] = prediction.descriptors


def _deviations(
    arguments: argparse.Namespace, models: list[Any]
) -> "Callable[..., dict[str, np.ndarray]] | None":
    """Standard deviations by the last layer, of one model that knows them."""
    from functools import partial

    from deepmd_gnn.tools.uncertainty import has_uncertainty, network_of, uncertainty

    if len(models) == 1 and has_uncertainty(models[0]):
        return partial(uncertainty, models[0], forces=arguments.forces_std)
    if arguments.forces_std and len(models) == 1:
        network_of(models[0])  # says why where it never will
        raise ValueError(
            f"--forces-std: {arguments.model} has no uncertainty. Make it with `deepmd-gnn uncertainty` from the checkpoint."
        )
    return None


def _descriptors(arguments: argparse.Namespace, model: Any) -> "Callable[..., np.ndarray] | None":
    if arguments.descriptors is None:
        if arguments.aggregate:
            raise ValueError("--aggregate belongs to --descriptors.")
        return None
    if arguments.descriptors == "all":
        return model.eval_descriptor  # type: ignore[no-any-return]
    from deepmd_gnn.files.summary import choose_model, summarise
    from deepmd_gnn.tools.batch_evaluation import invariants

    architecture = choose_model(summarise(arguments.model), arguments.head)["architecture"]
    if architecture is None:
        raise ValueError(f"{arguments.model}: does not record its architecture; take --descriptors all.")

    def scalars(*inputs: Any) -> "np.ndarray":
        features = model.eval_descriptor(*inputs)
        return invariants(features, architecture["hidden_irreps"], architecture["num_interactions"])

    return scalars
