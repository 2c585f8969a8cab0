"""What a conversion tells its user."""

from pathlib import Path
from typing import Any

from deepmd_gnn.datasets.isolated import E0_FILE


def report_text(report: dict[str, Any], output: Path) -> str:
    """Spell a report.

    Parameters
    ----------
    report : dict
        From :func:`deepmd_gnn.datasets.conversion.convert`.
    output : Path
        The folder.

    Returns
    -------
    str
        Lines.
    """
    lines = [f"{path}: {count} frames" for path, count in report["files"].items()]
    lines += [f"  {label.replace(': ', ' from ')}: {count} frames" for label, count in report["labels"].items()]  # fmt: skip
    for name, count in report["names that look like labels and are not read"].items():
        lines.append(f"  not read: {name} ({count} frames); if it is a label, name it with --…-key")
    kinds = report["config_types"]
    if set(kinds) - {"Default"}:
        lines.append("  config_type: " + ", ".join(f"{name} {count}" for name, count in kinds.items()))
    lines.append("")
    for part, entries in report["parts"].items():
        if part == "unlabelled":
            lines.append("Frames without any label, not for training:")
        for entry in entries:
            low, high = entry["atoms"]
            atoms = f"{low}" if low == high else f"{low} to {high}"
            labels = ", ".join(entry["labels"]) or "no labels"
            boundary = "" if entry["periodic"] else "; nopbc"
            lines.append(f"{output / entry['folder']}: {entry['frames']} frames of {atoms} atoms; {labels}{boundary}")  # fmt: skip
    lines.append(f"Type map: {' '.join(report['type_map'])}")
    if report["isolated_atoms"]:
        energies = ", ".join(f"{name} {value:.6f} eV" for name, value in report["isolated_atoms"].items())
        lines.append(f"{output / E0_FILE}: isolated atoms, not among the training data: {energies}")
    lines += _notes("Note", report["notes"], lambda note: f"(first: {note['first']})")
    lines += _notes("Doubtful", report["doubts"], lambda doubt: "; ".join(doubt["examples"]))
    if report["dropped"]:
        lines.append("Left out: " + ", ".join(f"{count} {kind}" for kind, count in report["dropped"].items()))
    lines += ["", f"Next: deepmd-gnn init {output} -o input.json"]
    return "\n".join(lines) + "\n"


def _notes(word: str, entries: list[dict[str, Any]], example: Any) -> list[str]:
    lines = []
    for entry in entries:
        count = f" ({entry['frames']} frames)" if entry["frames"] else ""
        lines.append(f"{word}: {entry['what']}{count}")
        if example(entry):
            lines.append(f"    {example(entry)}")
    return lines
