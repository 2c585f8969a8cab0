"""``deepmd-gnn data``: labelled structures to DeePMD-kit's folders, and back."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from deepmd_gnn.commands.parsers import (
    add_command,
    add_json_argument,
    add_label_arguments,
    add_periodicity_argument,
    watched,
)

_EXAMPLES = """\
examples:
  deepmd-gnn data train.xyz -o data                            a tenth for validation, as mace_run_train
  deepmd-gnn data train.xyz --valid valid.xyz --test test.xyz -o data
  deepmd-gnn data a.xyz b.xyz --energy-key dft_energy --forces-key dft_forces -o data
  deepmd-gnn data OUTCAR --format vasp/outcar -o data          what ASE or dpdata reads
  deepmd-gnn data data -o all.xyz                              back, with REF_energy, REF_forces, REF_stress

Next: deepmd-gnn init data -o input.json
"""


def add_parsers(subparsers: Any) -> None:
    """Add ``data``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "data",
        "convert extended XYZ and others to DeePMD-kit's folders, and back",
        _EXAMPLES,
        "Convert labelled structures to DeePMD-kit's folders, and report what is in them and what looks wrong. If the output "
        "is called .xyz, the way back.",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="training data")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="new folder, or .xyz for the way back"
    )
    parser.add_argument("--valid", type=Path, nargs="+", default=[], metavar="FILE", help="validation data")
    parser.add_argument("--test", type=Path, nargs="+", default=[], metavar="FILE", help="test data")
    parser.add_argument(
        "--valid-fraction", type=float, default=0.1, metavar="X",
        help="of the training data for validation, if there are no others; 0: none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=123, help="of that choice, as in native MACE (default: %(default)s)")  # fmt: skip
    add_label_arguments(parser, "name of the {name} in the files")
    parser.add_argument("--format", help="ASE's or dpdata's name of the files' format (default: found out)")
    parser.add_argument("--type-map", nargs="+", metavar="ELEMENT", help="default: by atomic number")
    parser.add_argument(
        "--layout", choices=("auto", "systems", "mixed", "lmdb"), default="auto",
        help="a folder per composition (systems), folders of mixed types, a database; auto: systems for one composition, "
        "else mixed",
    )  # fmt: skip
    parser.add_argument(
        "--by-config-type", action="store_true", help="folders of their own for each config_type"
    )
    parser.add_argument(
        "--fparam", nargs="+", default=[], metavar="NAME",
        help="quantities of frames that the energy depends on, e.g. total_charge total_spin: written as fparam.npy, in the order "
        "of the model's embeddings; NAME=KEY: under another name in the files",
    )  # fmt: skip
    add_periodicity_argument(parser)
    parser.add_argument(
        "--drop", nargs="+", choices=("duplicates", "overlaps", "forces"), default=[],
        help="doubtful frames to leave out instead of only reporting them",
    )  # fmt: skip
    parser.add_argument(
        "--virials", action="store_true", help="way back: write REF_virials instead of REF_stress"
    )
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Convert.

    Parameters
    ----------
    arguments : argparse.Namespace
        Parsed arguments.

    Returns
    -------
    int
        0.
    """
    from deepmd_gnn.datasets.conversion import Conversion, convert
    from deepmd_gnn.datasets.export import export
    from deepmd_gnn.datasets.extxyz import is_extxyz
    from deepmd_gnn.datasets.labels import chosen_keys
    from deepmd_gnn.datasets.report import report_text

    watch = partial(watched, delay=3.0)
    if is_extxyz(arguments.output):
        count = export(arguments.files, arguments.output, virials=arguments.virials, watch=watch)
        sys.stdout.write(f"{arguments.output}: {count} frames\n")
        return 0
    if not 0 <= arguments.valid_fraction < 1:
        raise ValueError(f"--valid-fraction {arguments.valid_fraction:g} must be 0 or more, and below 1.")
    job = Conversion(
        {"train": arguments.files, "valid": arguments.valid, "test": arguments.test},
        chosen_keys(vars(arguments)),
        arguments.type_map,
        arguments.layout,
        arguments.valid_fraction,
        arguments.seed,
        arguments.mixed_pbc,
        arguments.by_config_type,
        frozenset(arguments.drop),
        arguments.format,
        tuple(arguments.fparam),
        watch,
    )
    report = convert(job, arguments.output)
    if arguments.json:
        sys.stdout.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(report_text(report, arguments.output))
    return 0
