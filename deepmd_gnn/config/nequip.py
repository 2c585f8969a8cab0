"""What a user can set about a NequIP model: one definition for the schema, the documentation and the files.

No torch here: DeePMD-kit reads the schema in every ``dp`` process.
"""

import dataclasses
import logging
from typing import Any, ClassVar, NoReturn

from deepmd_gnn.config import checks
from deepmd_gnn.config.checks import PRECISIONS, parse_irreps, spelled
from deepmd_gnn.config.fields import Options
from deepmd_gnn.config.fields import option as _option
from deepmd_gnn.config.mm_types import is_mm

NONLINEARITIES = ("gate", "norm")
log = logging.getLogger("deepmd.deepmd_gnn")

# What the simple keys are where neither they nor the irreps are given.
SIMPLE = {"l_max": 2, "parity": True, "num_features": 32}


def fail(key: str, value: Any, allowed: str) -> NoReturn:
    """Raise the error for a bad value of an option."""
    checks.fail(key, value, allowed, model="nequip")


def _terms(key: str, value: Any, example: str) -> list[tuple[int, int, str]]:
    try:
        terms = parse_irreps(value)
    except ValueError as error:
        fail(key, value, f'irreps like "{example}" ({error})')
    if any(mul < 1 for mul, _, _ in terms) or len({term[1:] for term in terms}) < len(terms):
        fail(key, value, f'irreps like "{example}" that name each l and parity once')
    return terms


def _scalars(key: str, value: Any) -> None:
    """Even scalars."""
    if len(_terms(key, value, "32x0e")) != 1 or _terms(key, value, "32x0e")[0][1:] != (0, "e"):
        fail(key, value, 'scalars like "32x0e"')


def _edges(key: str, value: Any) -> None:
    """Spherical harmonics."""
    example = "0e + 1o + 2e"
    terms = _terms(key, value, example)
    natural = all(parity == "eo"[ell % 2] for _, ell, parity in terms)
    if any(mul != 1 for mul, _, _ in terms) or max(ell for _, ell, _ in terms) > 11:
        fail(key, value, f'irreps like "{example}", each once and with l up to 11')
    if (1, 0, "e") not in terms or not (natural or all(parity == "e" for _, _, parity in terms)):
        fail(
            key, value, f'irreps with 0e, all of the parity of spherical harmonics ("{example}") or all even'
        )


def _hidden(key: str, value: Any) -> None:
    """Irreps of features with one multiplicity."""
    example = "32x0e + 32x1o"
    terms = _terms(key, value, example)
    if (0, "e") not in {term[1:] for term in terms}:
        fail(key, value, f'irreps with even scalars, like "{example}"')
    if len({mul for mul, _, _ in terms}) > 1:
        fail(key, value, f'irreps with one multiplicity (the number of channels) for all l, like "{example}"')
    if max(ell for _, ell, _ in terms) > 11:
        fail(key, value, "irreps with l up to 11")


def _power(key: str, value: Any) -> None:
    """At least 2."""
    checks.positive(key, value)
    if value < 2:
        fail(key, value, "a number of at least 2")


@dataclasses.dataclass(frozen=True)
class NequipConfig(Options):
    """Architecture and statistics of a NequIP model, named as the package ``nequip`` 0.6 names them.

    Every field is a key of the ``model`` section of ``input.json``; ``metadata["doc"]`` is its documentation.

    Raises
    ------
    ValueError
        If a value has the wrong type or lies outside its range; the message names the key, the value and what
        is allowed.
    """

    kind: ClassVar[str] = "nequip"
    # What turns node features into energies; everything else makes the features.
    fitting: ClassVar[tuple[str, ...]] = ("conv_to_output_hidden_irreps_out", "scale", "atomic_energies")
    # Parts of the network that make the features; the readouts do the rest.
    parts: ClassVar[tuple[str, ...]] = ("node_embedding", "radial_embedding", "interactions")

    r_max: float = _option(6.0, [float], checks.positive, "Cutoff radius in Å.", ("rcut",))
    sel: Any = _option(
        "auto", [int, str, list[int]], checks.sel,
        "Expected number of neighbours: a number, \"auto\" or \"auto:factor\". It only sizes buffers of the host; "
        "neighbours are never truncated and no number depends on it.",
    )  # fmt: skip
    num_layers: int = _option(4, [int], checks.integer(1), "Number of message-passing layers.")
    l_max: int | None = _option(
        None, [int, None], checks.optional(checks.integer(0, 11)),
        f"Highest l of spherical harmonics and features (default {SIMPLE['l_max']}).",
    )  # fmt: skip
    parity: bool | None = _option(
        None, [bool, None], checks.optional(checks.boolean),
        "Whether features of both parities are kept, and mirror images have the same energy (default true).",
    )  # fmt: skip
    num_features: int | None = _option(
        None, [int, None], checks.optional(checks.integer(1)),
        f"Channels per irrep (default {SIMPLE['num_features']}).",
    )  # fmt: skip
    nonlinearity_type: str = _option(
        "gate", [str], checks.choice(*NONLINEARITIES), "Non-linearity of the layers: gate or norm."
    )
    num_basis: int = _option(8, [int], checks.integer(1), "Number of Bessel functions.")
    BesselBasis_trainable: bool = _option(
        True, [bool], checks.boolean, "Whether the frequencies of the Bessel functions are learned."
    )
    PolynomialCutoff_p: float = _option(6.0, [float], _power, "Power p of the polynomial cutoff envelope.")
    invariant_layers: int = _option(2, [int], checks.integer(1), "Hidden layers of the radial network.")
    invariant_neurons: int = _option(64, [int], checks.integer(1), "Width of these layers.")
    use_sc: bool = _option(
        True, [bool], checks.boolean, "Self-connection: features of the last layer times weights per element."
    )
    irreps_edge_sh: str | None = _option(
        None, [str, None], checks.optional(_edges),
        'Spherical harmonics on the edges, e.g. "0e + 1o + 2e"; default: from l_max and parity.',
    )  # fmt: skip
    feature_irreps_hidden: str | None = _option(
        None, [str, None], checks.optional(_hidden),
        'Irreps of the features, e.g. "32x0e + 32x0o + 32x1e + 32x1o", one multiplicity for all; default: from l_max, parity and '
        "num_features.",
    )  # fmt: skip
    chemical_embedding_irreps_out: str | None = _option(
        None, [str, None], checks.optional(_scalars),
        'Scalars that an element becomes, e.g. "32x0e"; default: num_features.',
    )  # fmt: skip
    conv_to_output_hidden_irreps_out: str | None = _option(
        None, [str, None], checks.optional(_scalars),
        'Hidden scalars of the readout, e.g. "16x0e"; default: half of num_features.',
    )  # fmt: skip
    avg_num_neighbors: Any = _option(
        "auto", [float, str, None], checks.positive_or_auto,
        'Sums over neighbours are divided by its square root. "auto": the mean number of neighbours within r_max in the '
        "training data.",
    )  # fmt: skip
    scale: Any = _option(
        "auto", [float, str], checks.positive_or_auto,
        'Scale of the interaction energy in eV. "auto": the root mean square of the force components in the training data.',
    )  # fmt: skip
    atomic_energies: Any = _option(
        "auto", [str, dict, list, None], checks.atomic_energies,
        'E0 of each element in eV, the energy of an atom without neighbours. "auto": least squares over the training data; or a '
        'dict {"O": -2043.9} or a list in the order of type_map, where null and missing elements are fitted; or a file with the '
        "energies of isolated atoms.",
    )  # fmt: skip
    precision: str = _option(
        "float64", [str], checks.choice(*PRECISIONS),
        "Precision of the network: float64 or float32. Geometry, sums of energies and E0 are always float64.",
    )  # fmt: skip
    freeze: Any = _option(
        None, [list[str], None], checks.names_of_parts,
        'Parts of the network that are not trained, e.g. ["node_embedding", "interactions.0"]: node_embedding, radial_embedding, '
        "interactions, readouts, one of the layers, or any longer name of their parameters.",
    )  # fmt: skip
    seed: Any = _option(
        None,
        [int, list[int], None],
        checks.optional(checks.seed),
        "Seed of the initial weights. null: training.seed, which differs between the members of a committee.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, value in self._resolved_irreps().items():
            self._set(key, value)
        for key in SIMPLE:
            self._set(key, None)
        self._set("PolynomialCutoff_p", float(self.PolynomialCutoff_p))

    def _resolved_irreps(self) -> dict[str, str]:
        """One spelling of the irreps: written ones, else those of the simple keys; the existing plugin goes by the irreps, too."""
        given = {key: getattr(self, key) for key in SIMPLE if getattr(self, key) is not None}
        derived = _irreps(**{**SIMPLE, **given})
        resolved = {}
        for key, implied in derived.items():
            written = getattr(self, key)
            resolved[key] = implied if written is None else spelled(written)
            if given and resolved[key] != implied:
                names = ", ".join(f"{name} {value}" for name, value in given.items())
                log.warning(
                    "nequip model: '%s' is '%s' as written; from %s would follow '%s', which does not count.",
                    key,
                    resolved[key],
                    names,
                    implied,
                )
        return resolved

    @property
    def channels(self) -> int:
        """Multiplicity of every irrep of the node features."""
        return parse_irreps(str(self.feature_irreps_hidden))[0][0]

    def to_dict(self) -> dict[str, Any]:
        """Keys that rebuild this configuration, plain Python values only."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


def check_only_mm(type_map: list[str]) -> None:
    """Refuse a type map of MM types only."""
    if all(map(is_mm, type_map)):
        fail("type_map", type_map, "a list with at least one type that is no MM type")


def _irreps(l_max: int, parity: bool, num_features: int) -> dict[str, str]:
    """What the simple keys mean, as in ``nequip.model.SimpleIrrepsConfig``."""
    ells = range(l_max + 1)
    kinds = "eo" if parity else "e"
    return {
        "irreps_edge_sh": " + ".join(f"1x{ell}{'eo'[ell % 2] if parity else 'e'}" for ell in ells),
        "feature_irreps_hidden": " + ".join(f"{num_features}x{ell}{kind}" for kind in kinds for ell in ells),
        "chemical_embedding_irreps_out": f"{num_features}x0e",
        "conv_to_output_hidden_irreps_out": f"{max(1, num_features // 2)}x0e",
    }
