"""Options of mlip's MACE about charges: charges of atoms, their Coulomb energy, an embedding of the total charge. No torch here."""

from collections.abc import Callable
from typing import Any

from deepmd_gnn.config.embeddings import CHARGE, DEFAULTS, INFO_KEYS, Feature, features

# The interaction is 1/r from here on (PhysNet), and a cutoff must not cut what is below.
LEAST_CUTOFF = 5.0
# Total charges that mlip's embedding knows: from -50 to 50.
LARGEST_CHARGE = 50
ACTIVATIONS = ("silu", "swish", "elu", "relu", "tanh", "sigmoid", "none")
_OURS = {"swish": "silu", "none": "None"}
Fail = Callable[[str, Any, str], None]


def quantities(
    embeddings: Any, use_coulomb_term: bool, use_total_charge_embedding: bool, channels: int
) -> list[Feature]:
    """Quantities of a frame that an energy depends on, in the order of the columns of ``fparam``.

    Parameters
    ----------
    embeddings : Any
        The option of this name.
    use_coulomb_term, use_total_charge_embedding : bool
        Whether the total charge is needed for itself.
    channels : int
        Of the node features.

    Returns
    -------
    list[Feature]
        Those of `embeddings`, and the total charge behind them if it is needed and not among them.
    """
    found = features(embeddings)
    if CHARGE in {one.name for one in found} or not (use_coulomb_term or use_total_charge_embedding):
        return found
    classes = 2 * LARGEST_CHARGE + 1 if use_total_charge_embedding else 0
    kind = "categorical" if use_total_charge_embedding else "continuous"
    offset = LARGEST_CHARGE if use_total_charge_embedding else 0
    return [
        *found,
        Feature(CHARGE, kind, classes, offset, channels, False, DEFAULTS[CHARGE], INFO_KEYS[CHARGE]),
    ]


def activation(name: str) -> str:
    """Our name of one of :data:`ACTIVATIONS`."""
    return _OURS.get(name, name)


def quantities_in(options: dict[str, Any]) -> list[Feature]:
    """The same of a dictionary of options, some of which may be left out."""
    return quantities(
        options.get("embeddings"),
        bool(options.get("use_coulomb_term")),
        bool(options.get("use_total_charge_embedding")),
        1,
    )


def refuse_export(use_coulomb_term: bool) -> None:
    """Refuse a model with charges where a program is to be made of the host's edge list, before anything is compiled.

    Parameters
    ----------
    use_coulomb_term : bool
        Of the model.

    Raises
    ------
    NotImplementedError
        If it has charges.
    """
    if use_coulomb_term:
        raise NotImplementedError(
            "mace model: a model with use_coulomb_term has no .pt2 and no .pte, and is not trained with dp --pt-expt: their list of "
            "edges ends at one cutoff for messages and charges. Use dp --pt train and dp --pt freeze -o model.pth."
        )


def check(config: Any, fail: Fail) -> None:
    """Refuse what does not fit together.

    Parameters
    ----------
    config : MaceConfig
        Options, each of which is sound by itself.
    fail : Callable
        Raises ValueError for an option, its value and what is allowed.
    """
    if config.predict_partial_charges and not config.use_coulomb_term:
        fail(
            "predict_partial_charges",
            True,
            "false without use_coulomb_term: charges are learned from energies and forces. Charges from labels are a property "
            'of atoms, see "descriptor": {"type": "mace"}',
        )
    if config.use_total_charge_embedding and config.embeddings:
        fail("use_total_charge_embedding", True, "false with embeddings; keep one of them")
