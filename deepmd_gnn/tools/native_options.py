"""Flags of ``mace_run_train`` as a user has them: a YAML file, a script, or the command line itself."""

import ast
import shlex
from pathlib import Path
from typing import Any

import yaml

from deepmd_gnn.tools.native_flags import ALIASES, FLAGS, is_switch

_PROGRAMS = ("mace_run_train", "run_train.py", "mace.cli.run_train")


def read_native_options(source: str) -> dict[str, Any]:
    """Read flags.

    Parameters
    ----------
    source : str
        A YAML file, a shell script with a call of ``mace_run_train``, or that call.

    Returns
    -------
    dict[str, Any]
        By native's name, aliases resolved. Unknown names are kept.

    Raises
    ------
    ValueError
        If there are no flags in it.
    """
    path = Path(source)
    is_file = len(source) < 1000 and "\n" not in source and path.is_file()
    if is_file and path.suffix in (".yaml", ".yml"):
        return _from_yaml(path)
    if not is_file and "--" not in source:
        raise ValueError(f"--like {source}: no such file. Give a YAML file, a script with mace_run_train, or its command line.")  # fmt: skip
    text = path.read_text() if is_file else source
    options = _from_words(_words(text, source))
    if not options:
        raise ValueError(f"--like {source}: no flags of mace_run_train in it.")
    if "config" in options:
        options = {**_from_yaml(Path(str(options["config"]))), **options}
    return options


def _from_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is no list of flags, such as `r_max: 5.0`.")
    return {_name(str(key)): value for key, value in content.items()}


def _name(key: str) -> str:
    key = key.lstrip("-")
    key = key if key in FLAGS or key in ALIASES else key.replace("-", "_")
    return ALIASES.get(key, key)


def _words(text: str, source: str) -> list[str]:
    text = text.replace("\\\n", " ")
    lines = [line for line in text.splitlines() if any(program in line for program in _PROGRAMS)]
    try:
        words = shlex.split(lines[0] if lines else text, comments=True)
    except ValueError as error:
        raise ValueError(f"--like {source[:60]}: cannot be read as a command line: {error}.") from error
    for place, word in enumerate(words):
        if word.endswith(_PROGRAMS):
            return words[place + 1 :]
    return words


def _from_words(words: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    name = ""
    for word in words:
        if word in ("|", "&&", ";", ">", "2>&1", "&", ">>"):
            break
        if word.startswith("--") and word != "--":
            key, equals, value = word.partition("=")
            name = _name(key)
            if equals:
                options[name], name = value, ""
            elif name in FLAGS and is_switch(name):
                options[name], name = True, ""
            else:
                options[name] = True
        elif name:
            options[name], name = word, ""
    return options


def literal(value: Any) -> Any:
    """What a string on a command line stands for: a number, a list, a dict, None, or itself."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def truth(value: Any) -> bool:
    """Native's reading of a boolean."""
    return value if isinstance(value, bool) else str(value).lower() in ("yes", "true", "t", "y", "1")


def as_list(value: Any) -> list[str]:
    """One file or several, also in native's spelling of a list."""
    value = literal(value)
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else [str(value)]
