"""Options of mlip's MACE that native MACE does not have. No torch here."""

import dataclasses
from typing import Any

from deepmd_gnn.config import charges, checks
from deepmd_gnn.config.fields import Options
from deepmd_gnn.config.fields import option as _option

ENVELOPES = ("polynomial_envelope", "soft_envelope")
# Those that are 0 at 0: there is no bias, so that messages end with the radial functions.
RADIAL_ACTIVATIONS = tuple(name for name in charges.ACTIVATIONS if name != "sigmoid")
_ENVELOPES = {"polynomial": "polynomial_envelope", "soft": "soft_envelope"}
_BESIDE = ("radial_envelope", "radial_mlp_activation", "avg_r_min", "gate_nodes", "soft_normalization")


@dataclasses.dataclass(frozen=True)
class MlipOptions(Options):
    """Fields of :class:`~deepmd_gnn.config.mace.MaceConfig` that mlip's MACE names; all of them change nothing when left out."""

    use_coulomb_term: bool = _option(
        False, [bool], checks.boolean,
        "Add the Coulomb energy of charges of the atoms, which are read from the node features and shifted to the total charge of "
        "the frame (a column of fparam). See [charges of atoms](charges.md#charges-of-atoms).",
    )  # fmt: skip
    predict_partial_charges: bool = _option(
        False, [bool], checks.boolean, "Read charges of the atoms from the node features: implied by use_coulomb_term.",
    )  # fmt: skip
    coulomb_cutoff: float = _option(
        12.0, [float], checks.at_least(charges.LEAST_CUTOFF),
        "Where the Coulomb energy ends, in Å: beyond it is a conductor (reaction field). For molecules more than their "
        "size. mlip has it among its data: long_range_cutoff_angstrom.",
        ("long_range_cutoff_angstrom",),
    )  # fmt: skip
    use_total_charge_embedding: bool = _option(
        False, [bool], checks.boolean,
        "As mlip: an embedding of the total charge (a whole number from −50 to 50, a column of fparam) is added to that of the "
        "element, and embed_activation acts on the sum.",
    )  # fmt: skip
    embed_activation: str = _option(
        "silu", [str], checks.choice(*charges.ACTIVATIONS, "None"), "Activation of use_total_charge_embedding: " + ", ".join(charges.ACTIVATIONS) + ".",
    )  # fmt: skip
    radial_envelope: str = _option(
        "polynomial_envelope", [str], checks.choice(*ENVELOPES, *_ENVELOPES),
        "What makes the radial functions end at r_max: polynomial_envelope, of the power num_cutoff_basis, or soft_envelope, of which all derivatives "
        "vanish there (1.2 exp(1/2 − 1/(2 − 2 r/r_max))).",
    )  # fmt: skip
    radial_mlp_activation: str = _option(
        "silu", [str], checks.choice(*RADIAL_ACTIVATIONS, "None"),
        "Activation of the radial networks: " + ", ".join(RADIAL_ACTIVATIONS) + ", normalised to unit second moment; with relu forces jump. (sigmoid is "
        "refused: it does not vanish with the radial functions, and the energy would jump at r_max.)",
    )  # fmt: skip
    avg_r_min: float | None = _option(
        None, [float, None], checks.optional(checks.positive),
        "A distance in Å: the radial functions are divided by their root mean square between it and r_max. null: they are not.",
    )  # fmt: skip
    gate_nodes: bool = _option(
        False, [bool], checks.boolean,
        "Multiply each channel of the product basis by a number that is linear in its scalars, with weights of the element.",
    )  # fmt: skip
    soft_normalization: float | None = _option(
        None, [float, None], checks.optional(checks.positive),
        "Keep the norms of node features softly below this number, before the skip connection is added.",
    )  # fmt: skip

    def beside(self) -> list[str]:
        """Options that are set and that native MACE cannot express."""
        options = {one.name: one for one in dataclasses.fields(self)}
        set_ones = [name for name in _BESIDE if getattr(self, name) != options[name].default]
        charged = ("use_coulomb_term", "use_total_charge_embedding")
        return [*set_ones, *(name for name in charged if getattr(self, name))]


def check_mlip(config: Any, fail: charges.Fail) -> None:
    """Bring options into one spelling, and refuse what does not fit together.

    Parameters
    ----------
    config : MaceConfig
        Options, each of which is sound by itself.
    fail : Callable
        Raises ValueError for an option, its value and what is allowed.
    """
    config._set("predict_partial_charges", config.predict_partial_charges or config.use_coulomb_term)
    config._set("embed_activation", charges.activation(config.embed_activation))
    config._set("radial_mlp_activation", charges.activation(config.radial_mlp_activation))
    config._set("radial_envelope", _ENVELOPES.get(config.radial_envelope, config.radial_envelope))
    charges.check(config, fail)
    if config.enable_cueq and config.beside():
        fail("enable_cueq", True, f"false with {', '.join(config.beside())}")
    blocks = (config.interaction_first, config.interaction)[: config.num_interactions]
    if config.radial_mlp_activation != "silu" and any("NonLinear" in str(block) for block in blocks):
        fail("radial_mlp_activation", config.radial_mlp_activation, "silu with ResidualNonLinear blocks")
    if config.avg_r_min is not None and config.avg_r_min >= config.r_max:
        fail("avg_r_min", config.avg_r_min, f"below r_max ({config.r_max:g})")
    if config.avg_r_min is not None and config.distance_transform != "None":
        fail("avg_r_min", config.avg_r_min, "left out with distance_transform")
