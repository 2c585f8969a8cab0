"""What a user can set about a MACE model: one definition for the schema, the documentation and the files.

No torch here: DeePMD-kit reads the schema in every ``dp`` process.
"""

import dataclasses
from typing import Any, ClassVar

from deepmd_gnn.config import charges, checks
from deepmd_gnn.config.adapters import check as check_adapters
from deepmd_gnn.config.checks import (
    DISTANCE_TRANSFORMS,
    GATES,
    INTERACTIONS,
    PRECISIONS,
    RADIAL_TYPES,
    READOUTS,
    canonical_interaction,
    is_unbounded,
    parse_irreps,
    spelled,
)
from deepmd_gnn.config.embeddings import Feature, features, plain
from deepmd_gnn.config.fields import option as _option
from deepmd_gnn.config.mlip import MlipOptions, check_mlip

DEFAULT_CHANNELS = 128
DEFAULT_MAX_L = 1

# Of layers 2, 3, …, which a model with one layer does not have.
_LATER_LAYERS = ("interaction", "MLP_irreps", "gate", "readout_cls")


def fail(key: str, value: Any, allowed: str) -> None:
    """Raise the error for a bad value of an option, with its other spellings."""
    checks.fail(key, value, allowed, spelling_hint(key))


def spelling_hint(key: str) -> str:
    """What else a user may have written for an option: the host translates aliases before it checks; empty if nothing."""
    others = next((o.metadata["alias"] for o in dataclasses.fields(MaceConfig) if o.name == key), ())
    if key == "hidden_irreps":
        others = ("num_channels", "max_L")
    return f" ('{key}' may also be written as {' and '.join(others)}.)" if others else ""


@dataclasses.dataclass(frozen=True)
class MaceConfig(MlipOptions):
    """Architecture and statistics of a MACE model, named as native MACE names them.

    Every field is a key of the ``model`` section of ``input.json``; ``metadata["doc"]`` is its documentation.

    Raises
    ------
    ValueError
        If a value has the wrong type or lies outside its range; the message names the key, the value and what
        is allowed.
    """

    kind: ClassVar[str] = "mace"
    # What turns node features into energies; everything else makes the features.
    fitting: ClassVar[tuple[str, ...]] = (
        "MLP_irreps", "gate", "readout_cls", "use_last_readout_only", "use_embedding_readout", "scale", "atomic_energies",
        "predict_partial_charges", "use_coulomb_term", "coulomb_cutoff",
    )  # fmt: skip
    # Parts of the network that make the features; the readouts do the rest.
    parts: ClassVar[tuple[str, ...]] = ("node_embedding", "interactions", "products")

    r_max: float = _option(5.0, [float], checks.positive, "Cutoff radius in Å.", ("rcut",))
    sel: Any = _option(
        "auto", [int, str, list[int]], checks.sel,
        "Expected number of neighbours: a number, \"auto\" or \"auto:factor\". It only sizes buffers of the host; "
        "neighbours are never truncated and no number depends on it.",
    )  # fmt: skip
    num_radial_basis: int = _option(
        8, [int], checks.integer(1), "Number of radial basis functions.", ("num_rbf", "num_bessel")
    )
    num_cutoff_basis: int = _option(
        5, [int], checks.integer(1), "Power p of the polynomial cutoff envelope.", ("num_polynomial_cutoff",)
    )
    max_ell: int = _option(
        3, [int], checks.integer(1, 11), "Highest l of the spherical harmonics on the edges.", ("l_max",)
    )
    hidden_irreps: str | None = _option(
        None, [str, None], checks.optional(checks.hidden_irreps),
        'Irreps of the node features, e.g. "128x0e + 128x1o". Give this or num_channels and max_L.',
    )  # fmt: skip
    num_channels: int | None = _option(
        None, [int, None], checks.optional(checks.integer(1)), f"Channels per irrep (default {DEFAULT_CHANNELS}).",
    )  # fmt: skip
    max_L: int | None = _option(
        None, [int, None], checks.optional(checks.integer(0, 11)),
        f"Highest l of the node features (default {DEFAULT_MAX_L}); with num_channels it spells hidden_irreps.",
    )  # fmt: skip
    num_interactions: int = _option(
        2, [int], checks.integer(1), "Number of message-passing layers.", ("num_layers",)
    )
    correlation: Any = _option(
        3,
        [int, list[int]],
        checks.correlation,
        "Correlation order (body order − 1): one number, or one per layer.",
    )
    interaction: str = _option(
        "RealAgnosticResidualInteractionBlock", [str], checks.interaction,
        "Interaction block of layers 2…: " + ", ".join(INTERACTIONS) + ' (the suffix "InteractionBlock" may be left out).',
    )  # fmt: skip
    interaction_first: str | None = _option(
        None, [str, None], checks.optional(checks.interaction),
        "Interaction block of the first layer. Default: RealAgnosticDensityInteractionBlock if `interaction` is a "
        "density block, else RealAgnosticInteractionBlock. With these an isolated atom has exactly its E0; a "
        "Residual block in the first layer adds a species-dependent energy to it.",
    )  # fmt: skip
    MLP_irreps: str = _option("16x0e", [str], checks.mlp_irreps, "Hidden scalars of the last readout.")
    gate: str = _option(
        "silu",
        [str, None],
        checks.optional(checks.choice(*GATES)),
        "Non-linearity of the last readout: " + ", ".join(GATES) + ".",
    )
    radial_MLP: list[int] = _option(
        [64, 64, 64],
        [list[int]],
        checks.integers,
        "Widths of the hidden layers of the radial network.",
        ("radial_mlp_hidden",),
    )
    radial_type: str = _option(
        "bessel", [str], checks.choice(*RADIAL_TYPES),
        "Radial basis: bessel or gaussian. (MACE's chebyshev is refused: it diverges upstream.)",
    )  # fmt: skip
    distance_transform: str | None = _option(
        "None", [str, None], checks.optional(checks.choice(*DISTANCE_TRANSFORMS)),
        "Transform of the distance before the radial basis: None, Agnesi or Soft. (OldSoft is what MACE 0.3.5 to 0.3.8 calls "
        "Soft; for imported models.)",
    )  # fmt: skip
    pair_repulsion: bool = _option(
        False, [bool], checks.boolean, "Add the Ziegler–Biersack–Littmark (ZBL) repulsion."
    )
    edge_irreps: str | None = _option(
        None, [str, None], checks.optional(checks.hidden_irreps),
        'Irreps that travel along the edges, e.g. "32x0e + 32x1o": fewer channels than hidden_irreps make the messages '
        "cheaper. Default: hidden_irreps.",
    )  # fmt: skip
    use_edge_irreps_first: bool = _option(
        False, [bool], checks.boolean, "Use the scalars of edge_irreps in the first layer too."
    )
    use_agnostic_product: bool = _option(
        False, [bool], checks.boolean, "Share the weights of the product basis between the elements."
    )
    use_last_readout_only: bool = _option(
        False, [bool], checks.boolean, "Read the energy from the last layer only."
    )
    use_so3: bool = _option(
        False, [bool], checks.boolean,
        "Spherical harmonics of even parity for all l: SO(3) instead of O(3). hidden_irreps are then even, "
        'e.g. "64x0e + 64x1e", and mirror images may differ in energy.',
    )  # fmt: skip
    keep_last_layer_irreps: bool = _option(
        False, [bool], checks.boolean, "Keep all irreps in the last layer, not only the scalars."
    )
    readout_cls: str = _option(
        "NonLinearReadoutBlock", [str], checks.choice(*READOUTS),
        "Last readout: " + " or ".join(READOUTS) + " (one more hidden layer, and biases).",
    )  # fmt: skip
    apply_cutoff: bool | None = _option(
        None, [bool, None], checks.optional(checks.boolean),
        "True: the cutoff envelope multiplies the radial basis. False: it multiplies the output of the radial network. "
        "Default: false with attentive and non-linear blocks (AttResidual, ResidualNonLinear), whose energy otherwise jumps "
        "when a neighbour crosses r_max, else true.",
    )  # fmt: skip
    embeddings: Any = _option(
        None, [dict, list, None], checks.embeddings,
        "Quantities of a whole frame that the energy depends on, as native MACE's embedding_specs: by name a dict with `type` "
        "(categorical or continuous), `per` (graph), `emb_dim`, for a categorical one `num_classes` and `offset` (values from "
        "−offset to num_classes − 1 − offset), for a continuous one `use_bias`; and `default`, the value of frames that give "
        "none (total_charge 0, total_spin 1, elec_temp 0; null: each frame needs one), and `key`, its name in atoms.info. "
        "Their values are the columns of fparam, in this order. See [charges and spins](charges.md).",
        ("embedding_specs",),
    )  # fmt: skip
    use_embedding_readout: bool = _option(
        False, [bool], checks.boolean,
        "Add an energy that is read from the features before the first message, which depend on the element and `embeddings` only.",
    )  # fmt: skip
    avg_num_neighbors: Any = _option(
        "auto", [float, str, None], checks.positive_or_auto,
        'Normalisation of the messages. "auto": the mean number of neighbours within r_max in the training data.',
    )  # fmt: skip
    scale: Any = _option(
        "auto", [float, str], checks.positive_or_auto,
        'Scale of the interaction energy in eV. "auto": the root mean square of the force components in the training data.',
        ("std",),
    )  # fmt: skip
    atomic_energies: Any = _option(
        "auto", [str, dict, list, None], checks.atomic_energies,
        'E0 of each element in eV. "auto": least squares over the training data; or a dict {"O": -2043.9} or a list in '
        "the order of type_map, where null and missing elements are fitted; or a file with the energies of isolated "
        'atoms: JSON ({"O": -2043.9} or {"8": -2043.9}), or any format ASE reads, whose single atoms count.',
        ("E0s",),
    )  # fmt: skip
    precision: str = _option(
        "float64", [str], checks.choice(*PRECISIONS),
        "Precision of the network: float64 or float32. Geometry, sums of energies and E0 are always float64.",
    )  # fmt: skip
    freeze: Any = _option(
        None, [list[str], None], checks.names_of_parts,
        "Parts of the network that are not trained, e.g. [\"node_embedding\", \"interactions.0\"]: node_embedding, "
        "interactions, products, readouts, one layer of them, or any longer name of their parameters.",
    )  # fmt: skip
    # The trainer of the host has a LoRA of its own under that name, and says that it is for another network.
    adapters: Any = _option(
        None, [dict, None], check_adapters,
        'Fine-tune with adapters of low rank (LoRA) instead of the weights: {"rank": 4, "alpha": 4, "parts": ["interactions", '
        '"products", "readouts"]}, each of which may be left out. Files have whole weights all the same.',
        ("lora",),
    )  # fmt: skip
    enable_cueq: bool = _option(
        False, [bool], checks.boolean,
        "Train with NVIDIA's cuEquivariance (the extra `cueq`): other kernels for the same numbers. Checkpoints are the "
        "same with and without it; frozen models never use it.",
    )  # fmt: skip
    seed: Any = _option(
        None,
        [int, list[int], None],
        checks.optional(checks.seed),
        "Seed of the initial weights. null: training.seed, which differs between the members of a committee.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("hidden_irreps", self._resolved_irreps())
        self._set("num_channels", None)
        self._set("max_L", None)
        self._set("interaction", canonical_interaction(self.interaction))
        self._set("interaction_first", self._resolved_first_interaction())
        if self.apply_cutoff is None:
            self._set("apply_cutoff", not self.has_unbounded_messages)
        self._set("gate", str(self.gate))
        self._set("distance_transform", str(self.distance_transform))
        self._set("embeddings", plain(self.features) or None)
        check_mlip(self, fail)
        self._check_layers()

    def hint(self, key: str) -> str:
        """Other spellings of the option."""
        return spelling_hint(key)

    def comparable(self) -> dict[str, Any]:
        """Values of options, one spelling for equal models, without those of layers that a model with one layer does not have."""
        values = {
            **vars(self),
            "correlation": self.correlations,
            "radial_MLP": list(self.radial_MLP),
            "hidden_irreps": spelled(str(self.hidden_irreps)),
            "MLP_irreps": spelled(str(self.MLP_irreps)),
            "edge_irreps": None if self.edge_irreps is None else spelled(str(self.edge_irreps)),
        }
        unused = _LATER_LAYERS if self.num_interactions == 1 else ()
        return {key: value for key, value in values.items() if key not in unused}

    def _check_layers(self) -> None:
        if self.use_embedding_readout and not self.embeddings:
            fail("use_embedding_readout", True, "false without embeddings")
        if self.enable_cueq and self.embeddings:
            fail("enable_cueq", True, "false with embeddings, which are not trained with cuEquivariance")
        if self.adapters is not None and self.freeze:
            fail("freeze", self.freeze, "left out with adapters: nothing else is trained")
        if self.adapters is not None and self.enable_cueq:
            fail("enable_cueq", True, "false with adapters, which are not trained with cuEquivariance")
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
        """Whether messages of a block do not vanish with the radial features."""
        used = [self.interaction_first, self.interaction][: self.num_interactions]
        return is_unbounded(used)

    @property
    def jumps_at_cutoff(self) -> bool:
        """Whether the energy jumps when a neighbour crosses ``r_max``."""
        return bool(self.apply_cutoff) and self.has_unbounded_messages

    @property
    def features(self) -> list[Feature]:
        """Quantities of a frame in ``embeddings``, the first columns of ``fparam``."""
        return features(self.embeddings)

    @property
    def quantities(self) -> list[Feature]:
        """All quantities of a frame that the energy depends on, in the order of the columns of ``fparam``."""
        embeds = self.use_total_charge_embedding
        return charges.quantities(self.embeddings, self.use_coulomb_term, embeds, self.channels)

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
