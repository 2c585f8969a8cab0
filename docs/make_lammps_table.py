"""Print the table of deviations in accuracy.md from a run of the tests.

``pytest tests/system/test_lammps.py --junitxml=report.xml -o junit_family=xunit1``, then
``python docs/make_lammps_table.py report.xml``.
"""

import argparse
import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

COLUMNS = ("energy", "force", "atom_virial", "atom_energy")


KINDS = (".pth", ".pt2")


def read_deviations(report: Path) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Collect what the rank tests recorded.

    Parameters
    ----------
    report : pathlib.Path
        Written by ``pytest --junitxml``.

    Returns
    -------
    dict[str, dict[str, dict[str, dict[str, float]]]]
        Case → kind of file → what it was compared with → quantity → largest absolute deviation.
    """
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for test in ElementTree.parse(report).iter("testcase"):
        name = re.fullmatch(r"test_ranks\[(.*)-(\.\w+)\]", test.get("name") or "")
        if name is not None:
            recorded = {
                item.get("name"): ast.literal_eval(item.get("value")) for item in test.iter("property")
            }
            found.setdefault(name[1], {})[name[2]] = recorded
    return found


def table(found: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """Format as Markdown; each number is the larger of the deviations from one rank and from Python."""
    lines = ["| case | energy | force | per-atom virial | per-atom energy |", "|---|---|---|---|---|"]
    for case, kinds in found.items():
        cells = []
        for column in COLUMNS:
            numbers = [max((v[column] for v in kinds.get(kind, {}).values()), default=None) for kind in KINDS]
            cells.append(" / ".join("–" if number is None else f"{number:.0e}" for number in numbers))
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("report", type=Path)
    print(table(read_deviations(parser.parse_args().report)))  # noqa: T201
