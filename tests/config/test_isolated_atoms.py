"""E0 from a file."""

import json
import logging

import pytest
from ase import Atoms
from ase.io import write

from deepmd_gnn.config.isolated_atoms import energies_in_section, energies_of_types, read_atomic_energies

TYPE_MAP = ["O", "H"]


@pytest.mark.parametrize("text", ['{"O": -5.0, "H": -1.25, "C": -9.0}', '{"8": -5.0, "1": -1.25}'])
def test_json_by_symbol_or_number(text, tmp_path):
    path = tmp_path / "e0.json"
    path.write_text(text)
    assert read_atomic_energies(str(path), TYPE_MAP) == {"O": -5.0, "H": -1.25}


def test_single_atoms_of_a_structure_file(tmp_path):
    """As native MACE is given them, between frames of the training set; an element may be missing."""
    oxygen, water = Atoms("O"), Atoms("OH2", positions=[[0, 0, 0], [0, 0, 1], [0, 1, 0]])
    oxygen.info["REF_energy"], water.info["REF_energy"] = -5.0, -8.0
    path = tmp_path / "train.xyz"
    write(path, [water, oxygen], format="extxyz")
    assert read_atomic_energies(str(path), TYPE_MAP) == {"O": -5.0}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e0.json", '{"O": "x"}', "cannot read .*e0.json"),
        ("e0.json", '{"C": 1.0}', r"isolated atoms of \['C'\], but the type map is"),
        ("e0.json", '{"O": NaN}', "cannot read .*e0.json.*'atomic_energies' is"),
        ("e0.json", '{"Xx": -1.0}', "cannot read .*e0.json.*names 'Xx', which is no element and no MM type"),
        ("e0.json", "[-5.0]", "cannot read .*e0.json.*a list instead"),
        ("e0.json", "{}", "has no isolated atoms"),
        (None, None, "neither .auto. nor a file"),
    ],
)
def test_bad_files_are_explained(name, text, message, tmp_path):
    path = tmp_path / (name or "missing.json")
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_atomic_energies(str(path), TYPE_MAP)


@pytest.mark.parametrize("from_file", [True, False])
def test_one_rule_for_dict_and_file(from_file, tmp_path, caplog):
    caplog.set_level(logging.INFO)

    def energies(content):
        if not from_file:
            return energies_in_section({"atomic_energies": content}, TYPE_MAP)["atomic_energies"]
        (tmp_path / "e0.json").write_text(json.dumps(content))
        return read_atomic_energies(str(tmp_path / "e0.json"), TYPE_MAP)

    assert energies({"8": -5.0, "C": -9.0, "HW": 0.0}) == {"O": -5.0}
    assert "energies of ['C', 'HW'] are not used" in caplog.text
    assert energies({"O": -5.0, "H": None}) == {"O": -5.0, "H": None}
    for content, message in (
        ({"C": -9.0}, r"isolated atoms of \['C'\], but the type map is"),
        ({"O": -5.0, "Ox": -1.0}, "names 'Ox', which is no element"),
        ({"O": float("inf")}, "'atomic_energies' is"),
        ({"O": -5.0, "119": -1.0}, "names '119', which is no element"),
    ):
        with pytest.raises(ValueError, match=message):
            energies(content)
    assert energies_of_types({}, TYPE_MAP) == {}


def test_two_energies_of_one_element(tmp_path):
    atoms = [Atoms("O"), Atoms("O")]
    for k, atom in enumerate(atoms):
        atom.info["REF_energy"] = -5.0 - k
    write(tmp_path / "two.xyz", atoms, format="extxyz")
    with pytest.raises(ValueError, match="O has two energies"):
        read_atomic_energies(str(tmp_path / "two.xyz"), TYPE_MAP)


def test_model_section_holds_the_energies_afterwards(tmp_path):
    path = tmp_path / "e0.json"
    path.write_text('{"O": -5.0}')
    flat = energies_in_section({"atomic_energies": str(path)}, TYPE_MAP)
    assert flat == {"atomic_energies": {"O": -5.0}}
    section = energies_in_section({"fitting_net": {"E0s": str(path)}, "atomic_energies": "auto"}, TYPE_MAP)
    assert section == {"fitting_net": {"E0s": {"O": -5.0}}, "atomic_energies": "auto"}
