"""Options of the MACE of another library, mlip (JAX), as keys of the model section: translated, or refused by name. No torch here.

What means the same under another name is an alias in :mod:`deepmd_gnn.config.mace`; here is what depends on the value.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from deepmd_gnn.config.checks import fail

# Of ours by name; may depend on other options that are given.
Translation = dict[str, Any]

_READOUT = ["0e", "1x0e"]


@dataclasses.dataclass(frozen=True)
class ForeignOption:
    """An option that ours have no field for."""

    name: str
    types: list[Any]
    """For the schema; None stands for itself."""
    doc: str
    """What becomes of it, for the schema and the documentation."""
    translate: Callable[[str, Any, dict[str, Any]], Translation]
    """From name, value and the options given beside it to ours; raises ValueError for what is not here."""


def translated(options: dict[str, Any], is_default: Callable[[str, Any], bool]) -> dict[str, Any]:
    """Replace options of the other library by ours.

    Parameters
    ----------
    options : dict[str, Any]
        A flat model section.
    is_default : Callable
        Whether an option, by name, has the value that it has when it is left out; such a value counts as not given.

    Returns
    -------
    dict[str, Any]
        Without keys of the other library.

    Raises
    ------
    ValueError
        If one of them asks for what is not here, or for something else than another key.
    """
    found = {key: value for key, value in options.items() if key not in FOREIGN}
    for key, value in options.items():
        if key not in FOREIGN:
            continue
        for name, ours in FOREIGN[key].translate(key, value, options).items():
            if name in found and not is_default(name, found[name]) and found[name] != ours:
                raise ValueError(
                    f"mace model: '{key}' is {value!r}, which is '{name}' {ours!r}, but '{name}' is {found[name]!r}; keep one."
                )
            found[name] = ours
    return found


def check_alone(name: str, value: Any) -> bool:
    """Check a value of an option of the other library for itself.

    Parameters
    ----------
    name : str
        Key of :data:`FOREIGN`.
    value : Any
        From the input.

    Returns
    -------
    bool
        True.

    Raises
    ------
    ValueError
        If it is not here.
    """
    FOREIGN[name].translate(name, value, {})
    return True


def _refuse(instead: str, *allowed: Any) -> Callable[[str, Any, dict[str, Any]], Translation]:
    """Admit values that change nothing; of others say what to use instead."""

    def translate(key: str, value: Any, options: dict[str, Any]) -> Translation:  # noqa: ARG001
        if not any(value is one or (value == one and type(value) is type(one)) for one in allowed):
            spelled = " or ".join("null" if one is None else str(one).lower() for one in allowed)
            fail(key, value, f"{spelled} (or left out): {instead}")
        return {}

    return translate


def _node_symmetry(key: str, value: Any, options: dict[str, Any]) -> Translation:
    highest = options.get("max_ell", options.get("l_max", 3))
    if value is None:
        return {"max_L": highest}
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        fail(key, value, "an integer of at least 0, or null (as l_max)")
    if value > highest and options:
        fail(key, value, f"at most l_max ({highest})")
    return {"max_L": value}


def _readout_irreps(key: str, value: Any, options: dict[str, Any]) -> Translation:  # noqa: ARG001
    if isinstance(value, str):
        return {"MLP_irreps": value}
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 2
        or str(value[1]).replace(" ", "") not in _READOUT
    ):
        fail(key, value, 'hidden scalars like "16x0e", or ["16x0e", "0e"]: one hidden layer, then the energy')
    return {"MLP_irreps": str(value[0])}


def _activation(key: str, value: Any, options: dict[str, Any]) -> Translation:  # noqa: ARG001
    names = {
        "swish": "silu",
        "none": "None",
        **{name: name for name in ("silu", "elu", "relu", "tanh", "sigmoid")},
    }
    if value not in names:
        fail(key, value, "one of " + ", ".join(names))
    return {"gate": names[value]}


def _first_residual(key: str, value: Any, options: dict[str, Any]) -> Translation:  # noqa: ARG001
    if not isinstance(value, bool):
        fail(key, value, "true or false")
    return {"interaction_first": "RealAgnosticResidualInteractionBlock"} if value else {}


def _anything(key: str, value: Any, options: dict[str, Any]) -> Translation:  # noqa: ARG001
    return {}


FOREIGN = {
    option.name: option
    for option in (
        ForeignOption(
            "node_symmetry", [int, None],
            "max_L, at most max_ell; null: as max_ell. Left out, max_L keeps its own default (1), where mlip takes l_max.",
            _node_symmetry,
        ),
        ForeignOption(
            "readout_irreps", [str, list],
            'MLP_irreps: "16x0e", or as there ["16x0e", "0e"], whose second is the energy. Others are refused, as there.',
            _readout_irreps,
        ),
        ForeignOption(
            "activation", [str], "gate: silu and swish, elu, relu, tanh, sigmoid, none. relu has a kink, and forces jump there.",
            _activation,
        ),
        ForeignOption(
            "residual_connection_first_layer", [bool],
            "true: interaction_first RealAgnosticResidualInteractionBlock, with which a lone atom has more than its E0.",
            _first_residual,
        ),
        ForeignOption(
            "num_readout_heads", [int], "1. Several heads are the branches of multi-task training.",
            _refuse("several heads are branches of multi-task training (page Training)", 1),
        ),
        ForeignOption(
            "include_pseudotensors", [bool],
            "false. Messages with both parities are not here; hidden_irreps may name pseudovectors, which is another model.",
            _refuse("messages have the parity of spherical harmonics; hidden_irreps like \"64x0e + 64x1o + 64x1e\" give node "
                    "features both, which is another model", False),
        ),
        ForeignOption(
            "add_atomic_energies", [bool], "true.",
            _refuse("energies contain E0; for E0 = 0 write \"atomic_energies\": [0, …], one per type", True),
        ),
        ForeignOption("num_species", [int, None], "Has no effect, as there: the type map says it.", _anything),
        ForeignOption(
            "deterministic_scatter_ops", [bool],
            "Has no effect. On a CPU sums over neighbours have one order, so equal runs with equal threads give equal numbers. On a "
            "GPU the order of torch's sums may change between runs, and with it the last digits.",
            _anything,
        ),
        ForeignOption(
            "symmetric_contraction_backend", [str],
            "e3j, e3nn and e3nn_symmetric: bases of the same polynomials; ours is a third one, with weights of its own. "
            "gaunt_tp, other polynomials, is refused.",
            _refuse("Gaunt products span other polynomials, which are not here", "e3j", "e3nn", "e3nn_symmetric"),
        ),
        ForeignOption(
            "use_gaunt_tp_message_passing", [bool], "false. Messages are Clebsch–Gordan products.",
            _refuse("messages are Clebsch-Gordan products; Gaunt products are other functions", False),
        ),
    )
}  # fmt: skip
