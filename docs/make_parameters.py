"""Write ``docs/parameters.md`` and the table of ``docs/nequip.md`` from the definitions of the options."""

import dataclasses
import re
from pathlib import Path

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.nequip import NequipConfig

HEADER = """# Parameters of `"type": "mace"`

Made by `python docs/make_parameters.py` from `deepmd_gnn/config/mace.py`; do not edit. Besides these keys the model section
takes DeePMD-kit's generic ones: `type_map` (chemical symbols), `pair_exclude_types`, `atom_exclude_types`,
`preset_out_bias`, `data_stat_nbatch` (batches per system from which the statistics are taken).

"""
TITLE = """| key | default | meaning |
|---|---|---|
"""
# Where the table of another page begins and ends.
PLACE = re.compile(r"(<!-- keys: [^\n]* -->\n).*?(<!-- end of keys -->)", re.DOTALL)


def row(option: "dataclasses.Field") -> str:
    """One line of the table."""
    default = option.default if option.default_factory is dataclasses.MISSING else option.default_factory()
    names = ", ".join(f"`{name}`" for name in (option.name, *option.metadata["alias"]))
    text = option.metadata["doc"].replace("|", "\\|")
    return f"| {names} | `{'null' if default is None else default}` | {text} |\n"


def page() -> str:
    """The whole page of MACE."""
    return HEADER + TITLE + "".join(row(option) for option in dataclasses.fields(MaceConfig))


def nequip_page(text: str) -> str:
    """The page of NequIP with its table."""
    rows = "".join(row(option) for option in dataclasses.fields(NequipConfig))
    return PLACE.sub(lambda found: f"{found[1]}\n{TITLE}{rows}\n{found[2]}", text)


if __name__ == "__main__":
    Path(__file__).with_name("parameters.md").write_text(page())
    nequip = Path(__file__).with_name("nequip.md")
    nequip.write_text(nequip_page(nequip.read_text()))
