"""Write ``docs/native_flags.md`` from the table of flags that ``deepmd-gnn init --like`` uses."""

from pathlib import Path

from deepmd_gnn.tools.native_flags import DROPPED, FLAGS, REPLACED, TRANSLATED, Flag

HEADER = """# Flags of `mace_run_train`

Made by `python docs/make_native_flags.py` from `deepmd_gnn/tools/native_flags.py`; do not edit.
`deepmd-gnn init data -o input.json --like FILE` does this for a YAML file, a script or a command line, and says of every
flag what became of it ([data](data.md#from-mace-run-train)). Flags that a call does not name have native's default values.

"""
TITLES = {
    TRANSLATED: "Translated: the same value has the same meaning",
    REPLACED: "Replaced: something else does the job",
    DROPPED: "Dropped",
}


def row(flag: Flag) -> str:
    """One line of a table."""
    names = ", ".join(f"`--{name}`" for name in (flag.name, *flag.aliases))
    target = f" `{flag.target}` |" if flag.fate != DROPPED else ""
    return f"| {names} |{target} {flag.why.replace('|', chr(92) + '|')} |\n"


def page() -> str:
    """The whole page."""
    text = HEADER
    for fate, title in TITLES.items():
        columns = "| flag | why |\n|---|---|\n" if fate == DROPPED else "| flag | here | |\n|---|---|---|\n"
        rows = "".join(row(flag) for flag in FLAGS.values() if flag.fate == fate)
        text += f"## {title}\n\n{columns}{rows}\n"
    return text.rstrip() + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("native_flags.md").write_text(page())
