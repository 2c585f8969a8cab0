"""``deepmd-gnn info``: what a model file holds."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from deepmd_gnn.commands.parsers import add_command, add_json_argument
from deepmd_gnn.config.checks import is_unbounded
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.networks import CONFIGS
from deepmd_gnn.files.archives import FileError
from deepmd_gnn.files.summary import summarise

_EXAMPLES = """\
examples:
  deepmd-gnn info model.ckpt.pt      a checkpoint of dp --pt train or dp --pt-expt train
  deepmd-gnn info mace.pth           a frozen model, also .pt2 and .pte
  deepmd-gnn info MACE.model         a model of native MACE
  deepmd-gnn info results/water      a training of the package nequip 0.6, or its deployed file
  deepmd-gnn info mace.pt2 --json    for programs
"""
_WIDTH = 21
# Options with a line of their own.
_SHOWN = frozenset(
    [
        "num_interactions",
        "interaction",
        "interaction_first",
        "hidden_irreps",
        "max_ell",
        "correlation",
        "num_radial_basis",
        "radial_type",
        "distance_transform",
        "num_cutoff_basis",
        "radial_MLP",
        "MLP_irreps",
        "gate",
        "pair_repulsion",
    ]
)


def add_parsers(subparsers: Any) -> None:
    """Add ``info``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "info",
        "say what a model file holds",
        _EXAMPLES,
        "Say what a checkpoint, frozen model or native MACE model holds, also one of nequip 0.6 or deepmd-gnn 0.x, without running it.",
    )
    parser.add_argument(
        "file",
        type=Path,
        help="checkpoint (.pt), frozen model (.pth, .pt2, .pte), native .model, or a training's folder of nequip",
    )
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the summary of a file.

    Parameters
    ----------
    arguments : argparse.Namespace
        With ``file`` and ``json``.

    Returns
    -------
    int
        Exit code.
    """
    summary, text = _summary(arguments.file)
    text = json.dumps(summary, indent=2) if arguments.json else text
    # Names in a stranger's file could hold control characters, which a terminal obeys.
    sys.stdout.write("".join(c if c.isprintable() or c == "\n" else "?" for c in text) + "\n")
    return 0


def _summary(file: Path) -> tuple[dict[str, Any], str]:
    """Of a file of DeePMD-kit, of native MACE, of the package nequip or of the other plugin deepmd-gnn, also as text."""
    try:
        summary = summarise(file)
    except FileError:
        from deepmd_gnn.native.summary import (
            native_lines,
            summarise_native,
            summarise_package,
            summarise_plugin,
        )

        native = summarise_plugin(file) or summarise_package(file) or summarise_native(file)
        if native is None:
            raise
        return native, "\n".join(_line(name, value) for name, value in native_lines(native).items())
    return summary, _text(summary)


def _text(summary: dict[str, Any]) -> str:
    lines = _file_lines(summary)
    for model in summary["models"]:
        lines += ["", "Model" if model["head"] is None else f"Head {model['head']}"]
        lines += _model_lines(model)
    return "\n".join(lines)


def _line(name: str, value: Any, indent: str = "") -> str:
    return f"{indent}{name:<{_WIDTH - len(indent)}}{value}"


def _file_lines(summary: dict[str, Any]) -> list[str]:
    versions = summary["versions"]
    lines = [
        _line("File", f"{summary['file']} ({_size(summary['size_bytes'])})"),
        _line("Kind", summary["kind_name"]),
        _line("Evaluation", summary["evaluation"]),
        _line("LAMMPS", summary["lammps"]),
        _line("Per-atom virial", _yes(summary["atomic_virial"])),
    ]
    if summary["compiled_for"]:
        # torch's name for no vectors in particular
        parts = (value.replace("INVALID_VEC_ISA", "generic") for value in summary["compiled_for"].values())
        lines.append(_line("Compiled for", ", ".join(parts)))
    tables = summary["radial_tables"]
    if tables:
        nodes = ", ".join(str(table["nodes"]) for table in tables)
        error = max(table["error"] for table in tables)
        lines.append(_line("Radial tables", f"{nodes} distances, largest relative error {error:.1e}"))
    lines.append(
        _line(
            "Written by",
            ", ".join(f"{k} {v}" for k, v in versions.items()) if versions else "not recorded",
        )
    )
    if summary["source"]:
        lines.append(
            _line("Converted from", "{file}, head {head}, sha256 {sha256}".format(**summary["source"]))
        )
    training = summary["training"]
    if training:
        step = training["step"]
        recorded = "not recorded" if step is None else f"{step} done"
        lines.append(_line("Training step", recorded))
        lines.append(_line("Restart", "possible" if training["optimizer"] else "no: without optimiser state"))
        if training["ema_decay"] is not None:
            lines.append(_line("EMA", f"decay {training['ema_decay']:g}"))
    lines += [_line("Warning", warning) for warning in summary["warnings"]]
    return [*lines, _line("Next", summary["next"])]


def _model_lines(model: dict[str, Any]) -> list[str]:
    if model["type"] not in CONFIGS:
        return [_line("Type", f"{model['type']}, not MACE or NequIP", "  ")]
    entries = {"Type map": " ".join(model["type_map"]), "Cutoff (r_max)": f"{model['r_max']:g} Å"}
    if model["type"] == "nequip":
        entries.update({"Type": "NequIP", **_nequip(model["architecture"])})
    else:
        entries.update(_architecture(model["architecture"]))
    entries.update(
        {
            "Precision": model["precision"],
            "Parameters": f"{model['parameters']:,}",
            "avg_num_neighbors": f"{model['avg_num_neighbors']:.6g}",
            "scale": f"{model['scale']:.6g} eV",
            "E0": ", ".join(f"{name} {value:.6f} eV" for name, value in model["atomic_energies"].items()),
        }
    )
    if model["pair_exclude_types"]:
        entries["Excluded pairs"] = ", ".join("–".join(pair) for pair in model["pair_exclude_types"])
    if model["atom_exclude_types"]:
        entries["Excluded types"] = " ".join(model["atom_exclude_types"])
    noted = model.get("uncertainty")  # of an earlier summary there is none
    if noted:
        entries["Uncertainty"] = (
            f"{noted.get('method')}, {noted.get('features')} features of {noted.get('frames')} frames, calibrated on "
            + (f"{noted.get('calibration_frames')} {noted.get('calibrated_on')}")
        )
    return [_line(name, value, "  ") for name, value in entries.items()]


def _architecture(config: dict[str, Any] | None) -> dict[str, str]:
    if config is None:
        return {"Architecture": "not recorded"}
    blocks = [config["interaction_first"]] + [config["interaction"]] * (config["num_interactions"] - 1)
    correlation = config["correlation"]
    orders = " ".join(map(str, correlation)) if isinstance(correlation, list) else correlation
    transform = config["distance_transform"]
    radial = f"{config['num_radial_basis']} {config['radial_type']} functions"
    radial += "" if transform == "None" else f" of {transform}'s distance"
    radial += f", cutoff power {config['num_cutoff_basis']}"
    lines = {
        "Layers": f"{config['num_interactions']}: "
        + ", ".join(block.removesuffix("InteractionBlock") for block in blocks),
        "Features": config["hidden_irreps"],
        "Edges": f"spherical harmonics up to l = {config['max_ell']}",
        "Correlation": str(orders),
        "Radial basis": radial,
        "Radial network": " ".join(map(str, config["radial_MLP"])),
        "Readout": f"{config['MLP_irreps']}, {config['gate']}",
        "ZBL repulsion": _yes(config["pair_repulsion"]),
    }
    others = _others(config)
    if others:
        lines["Other options"] = others
    return lines


def _nequip(config: dict[str, Any] | None) -> dict[str, str]:
    if config is None:
        return {"Architecture": "not recorded"}
    learned = "learned" if config["BesselBasis_trainable"] else "fixed"
    return {
        "Layers": f"{config['num_layers']}, {config['nonlinearity_type']}, "
        + ("with self-connection" if config["use_sc"] else "without self-connection"),
        "Features": config["feature_irreps_hidden"],
        "Edges": config["irreps_edge_sh"],
        "Embedding": config["chemical_embedding_irreps_out"],
        "Radial basis": f"{config['num_basis']} {learned} Bessel functions, cutoff power {config['PolynomialCutoff_p']:g}",
        "Radial network": " ".join([str(config["invariant_neurons"])] * config["invariant_layers"]),
        "Readout": config["conv_to_output_hidden_irreps_out"],
    }


def _others(config: dict[str, Any]) -> str:
    """Options that have no line of their own and differ from the default."""
    defaults = {option.name: option.default for option in dataclasses.fields(MaceConfig)}
    # Not given, it follows from the blocks.
    blocks = [config["interaction_first"], config["interaction"]][: config["num_interactions"]]
    defaults["apply_cutoff"] = not is_unbounded(blocks)
    return ", ".join(
        f"{key}: {value}"
        for key, value in config.items()
        if key not in _SHOWN and value != defaults.get(key, dataclasses.MISSING)
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _size(number: int) -> str:
    size = float(number)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
