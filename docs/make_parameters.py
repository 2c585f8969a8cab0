"""Write ``docs/parameters.md`` from the definition of the options."""

import dataclasses
from pathlib import Path

from deepmd_gnn.config.mace import MaceConfig

HEADER = """# Parameters of `"type": "mace"`

Made by `python docs/make_parameters.py` from `deepmd_gnn/config/mace.py`; do not edit. Besides these keys the model section
takes DeePMD-kit's generic ones: `type_map` (chemical symbols), `pair_exclude_types`, `atom_exclude_types`,
`preset_out_bias`, `data_stat_nbatch` (batches per system from which the statistics are taken).

| key | default | meaning |
|---|---|---|
"""


def row(option: "dataclasses.Field") -> str:
    """One line of the table."""
    default = option.default if option.default_factory is dataclasses.MISSING else option.default_factory()
    names = ", ".join(f"`{name}`" for name in (option.name, *option.metadata["alias"]))
    text = option.metadata["doc"].replace("|", "\\|")
    return f"| {names} | `{'null' if default is None else default}` | {text} |\n"


def page() -> str:
    """The whole page."""
    return HEADER + "".join(row(option) for option in dataclasses.fields(MaceConfig))


if __name__ == "__main__":
    Path(__file__).with_name("parameters.md").write_text(page())
