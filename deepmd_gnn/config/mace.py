"""What a user can set about a MACE model: one definition for the schema, the documentation and the files.

No torch here: DeePMD-kit reads the schema in every ``dp`` process.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

INTERACTIONS = tuple(
    f"RealAgnostic{kind}InteractionBlock"
    for kind in ("", "Residual", "AttResidual", "Density", "DensityResidual", "ResidualNonLinear")
)
# In the names of blocks whose messages do not vanish with the radial features: their biases and soft maxima stay.
UNBOUNDED = ("Att", "NonLinear")
READOUTS = ("NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")
GATES = ("silu", "tanh", "abs", "None")
RADIAL_TYPES = ("bessel", "gaussian")
DISTANCE_TRANSFORMS = ("None", "Agnesi", "Soft", "OldSoft")
PRECISIONS = {
    "float64": "float64",
    "double": "float64",
    "default": "float64",
    "float32": "float32",
    "single": "float32",
}
DEFAULT_CHANNELS = 128
DEFAULT_MAX_L = 1

_IRREP = re.compile(r"(?:(\d+)x)?(\d+)([eo])")


def parse_irreps(text: str) -> list[tuple[int, int, str]]:
    """Split irreps such as ``"64x0e + 64x1o"`` into (multiplicity, l, parity).

    Parameters
    ----------
    text : str
        Irreps in e3nn's notation.

    Returns
    -------
    list[tuple[int, int, str]]
        One entry per term; parity is ``"e"`` or ``"o"``.

    Raises
    ------
    ValueError
        If a term is not of the form ``{multiplicity}x{l}{e|o}``.
    """
    terms = []
    for term in str(text).split("+"):
        match = _IRREP.fullmatch(term.strip().replace(" ", ""))
        if match is None:
            raise ValueError(f"'{term.strip()}' is not an irrep like 64x0e or 64x1o")
        terms.append((int(match[1] or 1), int(match[2]), match[3]))
    return terms


def fail(key: str, value: Any, allowed: str) -> None:
    """Raise the error for a bad value: names the key, the value and what is allowed."""
    raise ValueError(f"mace model: '{key}' is {value!r}, but must be {allowed}.{spelling_hint(key)}")


def spelling_hint(key: str) -> str:
    """What else a user may have written for an option: the host translates aliases before it checks; empty if nothing."""
    others = next((o.metadata["alias"] for o in dataclasses.fields(MaceConfig) if o.name == key), ())
    if key == "hidden_irreps":
        others = ("num_channels", "max_L")
    return f" ('{key}' may also be written as {' and '.join(others)}.)" if others else ""


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _integer(low: int, high: int | None = None) -> Callable[[str, Any], None]:
    allowed = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"

    def check(key: str, value: Any) -> None:
        if not _is_int(value) or value < low or (high is not None and value > high):
            fail(key, value, allowed)

    return check


def _choice(*choices: str) -> Callable[[str, Any], None]:
    def check(key: str, value: Any) -> None:
        if value not in choices:
            fail(key, value, "one of " + ", ".join(choices))

    return check


def _optional(check: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    def check_unless_none(key: str, value: Any) -> None:
        if value is not None:
            check(key, value)

    return check_unless_none


def _positive(key: str, value: Any) -> None:
    if not _is_number(value) or value <= 0:
        fail(key, value, "a number above 0")


def _positive_or_auto(key: str, value: Any) -> None:
    if value is not None and value != "auto" and (not _is_number(value) or value <= 0):
        fail(key, value, 'a number above 0 or "auto" (from the training data)')


def _boolean(key: str, value: Any) -> None:
    if not isinstance(value, bool):
        fail(key, value, "true or false")


def _sel(key: str, value: Any) -> None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if _is_int(value) and value > 0:
        return
    if isinstance(value, str) and re.fullmatch(r"auto(:\d+(\.\d+)?)?", value):
        return
    fail(key, value, 'a number of neighbours above 0, "auto" or "auto:factor"')


def _interaction(key: str, value: Any) -> None:
    if canonical_interaction(value) not in INTERACTIONS:
        fail(key, value, "one of " + ", ".join(INTERACTIONS))


def _irreps(key: str, value: Any) -> None:
    try:
        terms = parse_irreps(value)
    except ValueError as error:
        fail(key, value, f'irreps like "128x0e + 128x1o" ({error})')
    if terms[0][1:] != (0, "e"):
        fail(key, value, 'irreps that begin with scalars, like "128x0e + 128x1o"')
    if len({mul for mul, _, _ in terms}) > 1 or terms[0][0] == 0:
        fail(key, value, "irreps with one multiplicity (the number of channels) for all l")
    if len({term[1:] for term in terms}) < len(terms):
        fail(key, value, "irreps that name each l and parity once")


def _mlp_irreps(key: str, value: Any) -> None:
    try:
        terms = parse_irreps(value)
    except ValueError as error:
        fail(key, value, f'scalars like "16x0e" ({error})')
    if len(terms) != 1 or terms[0][1:] != (0, "e") or terms[0][0] == 0:
        fail(key, value, 'scalars like "16x0e"')


def _integers(key: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)) or not value or not all(_is_int(v) and v > 0 for v in value):
        fail(key, value, "a non-empty list of integers above 0")


def _correlation(key: str, value: Any) -> None:
    if isinstance(value, (list, tuple)):
        _integers(key, value)
    elif not _is_int(value) or value < 1:
        fail(key, value, "an integer of at least 1, or a list with one per layer")


def _atomic_energies(key: str, value: Any) -> None:
    if value in (None, "auto") or (isinstance(value, str) and ("." in value or "/" in value)):
        return  # files are looked for when they are read
    values = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list, tuple)) or not all(v is None or _is_number(v) for v in values):
        fail(
            key,
            value,
            '"auto" (least squares), a dict like {"H": -13.6}, a list in the order of type_map or a file, in eV',
        )


def _names(key: str, value: Any) -> None:
    if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        fail(key, value, 'a list of parts of the network, e.g. ["node_embedding", "interactions.0"]')


def _seed(key: str, value: Any) -> None:
    values = value if isinstance(value, (list, tuple)) else [value]
    if not all(_is_int(v) and v >= 0 for v in values):
        fail(key, value, "an integer of at least 0")


def canonical_interaction(name: Any) -> Any:
    """Complete a short block name: ``"RealAgnosticResidual"`` means ``"RealAgnosticResidualInteractionBlock"``."""
    if isinstance(name, str) and not name.endswith("InteractionBlock"):
        return name + "InteractionBlock"
    return name


def _option(
    default: Any, types: list[Any], check: Callable[[str, Any], None], doc: str, alias: tuple[str, ...] = ()
) -> Any:
    metadata = {"types": types, "check": check, "doc": doc, "alias": alias}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class MaceConfig:
    """Architecture and statistics of a MACE model, named as native MACE names them.

    Every field is a key of the ``model`` section of ``input.json``; ``metadata["doc"]`` is its documentation.

    Raises
    ------
    ValueError
        If a value has the wrong type or lies outside its range; the message names the key, the value and what
        is allowed.
    """

    r_max: float = _option(5.0, [float], _positive, "Cutoff radius in Å.", ("rcut",))
    sel: Any = _option(
        "auto", [int, str, list[int]], _sel,
        "Expected number of neighbours: a number, \"auto\" or \"auto:factor\". It only sizes buffers of the host; "
        "neighbours are never truncated and no number depends on it.",
    )  # fmt: skip
    num_radial_basis: int = _option(
        8, [int], _integer(1), "Number of radial basis functions.", ("num_rbf", "num_bessel")
    )
    num_cutoff_basis: int = _option(
        5, [int], _integer(1), "Power p of the polynomial cutoff envelope.", ("num_polynomial_cutoff",)
    )
    max_ell: int = _option(
        3, [int], _integer(1, 11), "Highest l of the spherical harmonics on the edges.", ("l_max",)
    )
    hidden_irreps: str | None = _option(
        None, [str, None], _optional(_irreps),
        'Irreps of the node features, e.g. "128x0e + 128x1o". Give this or num_channels and max_L.',
    )  # fmt: skip
    num_channels: int | None = _option(
        None, [int, None], _optional(_integer(1)), f"Channels per irrep (default {DEFAULT_CHANNELS}).",
    )  # fmt: skip
    max_L: int | None = _option(
        None, [int, None], _optional(_integer(0, 11)),
        f"Highest l of the node features (default {DEFAULT_MAX_L}); with num_channels it spells hidden_irreps.",
        ("node_symmetry",),
    )  # fmt: skip
    num_interactions: int = _option(
        2, [int], _integer(1), "Number of message-passing layers.", ("num_layers",)
    )
    correlation: Any = _option(
        3, [int, list[int]], _correlation, "Correlation order (body order − 1): one number, or one per layer."
    )
    interaction: str = _option(
        "RealAgnosticResidualInteractionBlock", [str], _interaction,
        "Interaction block of layers 2…: " + ", ".join(INTERACTIONS) + ' (the suffix "InteractionBlock" may be left out).',
    )  # fmt: skip
    interaction_first: str | None = _option(
        None, [str, None], _optional(_interaction),
        "Interaction block of the first layer. Default: RealAgnosticDensityInteractionBlock if `interaction` is a "
        "density block, else RealAgnosticInteractionBlock. With these an isolated atom has exactly its E0; a "
        "Residual block in the first layer adds a species-dependent energy to it.",
    )  # fmt: skip
    MLP_irreps: str = _option(
        "16x0e", [str], _mlp_irreps, "Hidden scalars of the last readout.", ("readout_irreps",)
    )
    gate: str = _option(
        "silu",
        [str, None],
        _optional(_choice(*GATES)),
        "Non-linearity of the last readout: " + ", ".join(GATES) + ".",
    )
    radial_MLP: list[int] = _option(
        [64, 64, 64], [list[int]], _integers, "Widths of the hidden layers of the radial network."
    )
    radial_type: str = _option(
        "bessel", [str], _choice(*RADIAL_TYPES),
        "Radial basis: bessel or gaussian. (MACE's chebyshev is refused: it diverges upstream.)",
    )  # fmt: skip
    distance_transform: str | None = _option(
        "None", [str, None], _optional(_choice(*DISTANCE_TRANSFORMS)),
        "Transform of the distance before the radial basis: None, Agnesi or Soft. (OldSoft is what MACE 0.3.5 to 0.3.8 calls "
        "Soft; for imported models.)",
    )  # fmt: skip
    pair_repulsion: bool = _option(
        False, [bool], _boolean, "Add the Ziegler–Biersack–Littmark (ZBL) repulsion."
    )
    edge_irreps: str | None = _option(
        None, [str, None], _optional(_irreps),
        'Irreps that travel along the edges, e.g. "32x0e + 32x1o": fewer channels than hidden_irreps make the messages '
        "cheaper. Default: hidden_irreps.",
    )  # fmt: skip
    use_edge_irreps_first: bool = _option(
        False, [bool], _boolean, "Use the scalars of edge_irreps in the first layer too."
    )
    use_agnostic_product: bool = _option(
        False, [bool], _boolean, "Share the weights of the product basis between the elements."
    )
    use_last_readout_only: bool = _option(
        False, [bool], _boolean, "Read the energy from the last layer only."
    )
    use_so3: bool = _option(
        False, [bool], _boolean,
        "Spherical harmonics of even parity for all l: SO(3) instead of O(3). hidden_irreps are then even, "
        'e.g. "64x0e + 64x1e", and mirror images may differ in energy.',
    )  # fmt: skip
    keep_last_layer_irreps: bool = _option(
        False, [bool], _boolean, "Keep all irreps in the last layer, not only the scalars."
    )
    readout_cls: str = _option(
        "NonLinearReadoutBlock", [str], _choice(*READOUTS),
        "Last readout: " + " or ".join(READOUTS) + " (one more hidden layer, and biases).",
    )  # fmt: skip
    apply_cutoff: bool | None = _option(
        None, [bool, None], _optional(_boolean),
        "True: the cutoff envelope multiplies the radial basis. False: it multiplies the output of the radial network. "
        "Default: false with attentive and non-linear blocks (AttResidual, ResidualNonLinear), whose energy otherwise jumps "
        "when a neighbour crosses r_max, else true.",
    )  # fmt: skip
    avg_num_neighbors: Any = _option(
        "auto", [float, str, None], _positive_or_auto,
        'Normalisation of the messages. "auto": the mean number of neighbours within r_max in the training data.',
    )  # fmt: skip
    scale: Any = _option(
        "auto", [float, str], _positive_or_auto,
        'Scale of the interaction energy in eV. "auto": the root mean square of the force components in the training data.',
        ("std",),
    )  # fmt: skip
    atomic_energies: Any = _option(
        "auto", [str, dict, list, None], _atomic_energies,
        'E0 of each element in eV. "auto": least squares over the training data; or a dict {"O": -2043.9} or a list in '
        "the order of type_map, where null and missing elements are fitted; or a file with the energies of isolated "
        'atoms: JSON ({"O": -2043.9} or {"8": -2043.9}), or any format ASE reads, whose single atoms count.',
        ("E0s",),
    )  # fmt: skip
    precision: str = _option(
        "float64", [str], _choice(*PRECISIONS),
        "Precision of the network: float64 or float32. Geometry, sums of energies and E0 are always float64.",
    )  # fmt: skip
    freeze: Any = _option(
        None, [list[str], None], _names,
        "Parts of the network that are not trained, e.g. [\"node_embedding\", \"interactions.0\"]: node_embedding, "
        "interactions, products, readouts, one layer of them, or any longer name of their parameters.",
    )  # fmt: skip
    enable_cueq: bool = _option(
        False, [bool], _boolean,
        "Train with NVIDIA's cuEquivariance (the extra `cueq`): other kernels for the same numbers. Checkpoints are the "
        "same with and without it; frozen models never use it.",
    )  # fmt: skip
    seed: Any = _option(None, [int, list[int], None], _optional(_seed), "Seed of the initial weights.")

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            option.metadata["check"](option.name, getattr(self, option.name))
        self._set("hidden_irreps", self._resolved_irreps())
        self._set("num_channels", None)
        self._set("max_L", None)
        self._set("interaction", canonical_interaction(self.interaction))
        self._set("interaction_first", self._resolved_first_interaction())
        if self.apply_cutoff is None:
            self._set("apply_cutoff", not self.has_unbounded_messages)
        self._set("gate", str(self.gate))
        self._set("distance_transform", str(self.distance_transform))
        self._set("precision", PRECISIONS[self.precision])
        for key in ("avg_num_neighbors", "atomic_energies", "scale"):
            if getattr(self, key) is None:
                self._set(key, "auto")
        if isinstance(self.sel, list):
            self._set("sel", self.sel[0])
        self._check_layers()

    def _check_layers(self) -> None:
        if isinstance(self.correlation, (list, tuple)) and len(self.correlation) != self.num_interactions:
            fail(
                "correlation",
                self.correlation,
                f"one number, or {self.num_interactions} numbers (num_interactions)",
            )
        if "NonLinear" in self.interaction and any(
            t[1:] == (0, "o") for t in parse_irreps(str(self.hidden_irreps))
        ):
            fail(
                "interaction",
                self.interaction,
                "another block with pseudoscalars (0o): native MACE's cannot gate them",
            )
        if self.use_last_readout_only and self.num_interactions == 1:
            fail("use_last_readout_only", True, "false with one layer, which would be left without readout")
        if self.use_edge_irreps_first and self.edge_irreps is None:
            fail("use_edge_irreps_first", True, "false unless edge_irreps is given")

    def _set(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)

    def _resolved_irreps(self) -> str:
        if self.hidden_irreps is None:
            channels = self.num_channels or DEFAULT_CHANNELS
            max_l = DEFAULT_MAX_L if self.max_L is None else self.max_L
            return " + ".join(f"{channels}x{ell}{'eo'[ell % 2]}" for ell in range(max_l + 1))
        terms = parse_irreps(self.hidden_irreps)
        given = {"num_channels": terms[0][0], "max_L": max(ell for _, ell, _ in terms)}
        for key, implied in given.items():
            if getattr(self, key) not in (None, implied):
                fail(
                    key,
                    getattr(self, key),
                    f"left out, or {implied} as in hidden_irreps '{self.hidden_irreps}'",
                )
        return self.hidden_irreps

    def _resolved_first_interaction(self) -> str:
        if self.interaction_first is not None:
            return canonical_interaction(self.interaction_first)
        kind = "Density" if "Density" in self.interaction else ""
        return f"RealAgnostic{kind}InteractionBlock"

    @property
    def has_unbounded_messages(self) -> bool:
        """Whether a block is one of :data:`UNBOUNDED`."""
        used = [self.interaction_first, self.interaction][: self.num_interactions]
        return any(word in str(kind) for word in UNBOUNDED for kind in used)

    @property
    def jumps_at_cutoff(self) -> bool:
        """Whether the energy jumps when a neighbour crosses ``r_max``."""
        return bool(self.apply_cutoff) and self.has_unbounded_messages

    @property
    def channels(self) -> int:
        """Multiplicity of every irrep of the node features."""
        return parse_irreps(str(self.hidden_irreps))[0][0]

    @property
    def correlations(self) -> list[int]:
        """Correlation order of each layer."""
        if isinstance(self.correlation, (list, tuple)):
            return list(self.correlation)
        return [self.correlation] * self.num_interactions

    def to_dict(self) -> dict[str, Any]:
        """Keys that rebuild this configuration, plain Python values only."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
