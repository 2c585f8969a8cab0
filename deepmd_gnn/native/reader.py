"""Native MACE models as models of this package: :func:`load_mace`."""

import dataclasses
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ase.data import atomic_numbers
from deepmd.pt.utils import env

from deepmd_gnn.config.checks import PRECISIONS
from deepmd_gnn.config.mace import MaceConfig, fail
from deepmd_gnn.config.mm_types import element_of
from deepmd_gnn.files.archives import FileError
from deepmd_gnn.files.fitting_weights import misfit
from deepmd_gnn.files.native_file import NativeModule, NotConvertible, read_native
from deepmd_gnn.files.nequip_package import NAME, read_package_file
from deepmd_gnn.files.plugin_file import PluginFile, read_plugin_file
from deepmd_gnn.mace import MaceModel
from deepmd_gnn.mace_network import build_energy, on_cpu
from deepmd_gnn.native.description import HeadError, NativeDescription, describe, head_names
from deepmd_gnn.native.plugin import describe_plugin, tell_differences
from deepmd_gnn.native.weights import load_weights
from deepmd_gnn.nn.elements import copy_elements

# What reading a file of another make may raise.
_UNEXPECTED = (
    AttributeError, TypeError, ValueError, LookupError, RuntimeError, ArithmeticError, AssertionError, EOFError, ImportError,
    pickle.UnpicklingError,
)  # fmt: skip


def load_mace(
    source: str | Path,
    head: str | None = None,
    elements: list[str] | None = None,
    precision: str | None = None,
    sel: int | None = None,
    *,
    trust: bool = False,
    architecture: str | Path | None = None,
) -> MaceModel:
    """Load a native MACE model.

    Nothing in the file is executed unless `trust` is set.

    Parameters
    ----------
    source : str or Path
        A ``.model`` file of mace-torch 0.2 to 0.3, pickled or compiled to TorchScript.
    head : str, optional
        Which head of a model with several.
    elements : list[str], optional
        Chemical symbols to keep, in the order of the new type map. Default: all, in the order of the file.
    precision : str, optional
        ``"float64"`` or ``"float32"``. Default: that of the file.
    sel : int, optional
        Expected number of neighbours; only a hint for buffers of the host.
    trust : bool
        Load with torch's full unpickler, which executes code from the file; for older formats of torch.
    architecture : str or Path, optional
        If `source` is a training checkpoint: a ``.model`` of the same training.

    Returns
    -------
    MaceModel
        In eval mode; gives the numbers of the native model.

    Raises
    ------
    deepmd_gnn.files.archives.FileError
        If the file is damaged or of another kind.
    deepmd_gnn.files.native_file.NotConvertible
        If the model has a part that has no counterpart here.
    ValueError
        If head, elements or precision do not fit the model.
    """
    return load_head(source, head, elements, precision, sel, trust=trust, architecture=architecture)[0]


def load_head(
    source: str | Path,
    head: str | None = None,
    elements: list[str] | None = None,
    precision: str | None = None,
    sel: int | None = None,
    *,
    trust: bool = False,
    architecture: str | Path | None = None,
) -> tuple[MaceModel, str]:
    """As :func:`load_mace`.

    Parameters
    ----------
    source, head, elements, precision, sel, trust, architecture
        As for :func:`load_mace`.

    Returns
    -------
    tuple[MaceModel, str]
        The model and the name of its head in the file.
    """
    with explained(source):
        other = None if trust else _plugin_file(source)
        if other is not None:
            native, description = describe_plugin(source, other, head)
            tell_differences(source, other.models[description.heads[0]])
        else:
            native = read_native(source, trust, architecture)
            description = describe(native, head)
        model = _load(native, description, elements, precision, sel)
        return model, description.heads[description.head]


def load_heads(
    source: str | Path,
    elements: list[str] | None = None,
    precision: str | None = None,
    sel: int | None = None,
    *,
    trust: bool = False,
    architecture: str | Path | None = None,
) -> dict[str, MaceModel]:
    """Load every head of a native MACE model, each as a model.

    Parameters
    ----------
    source, elements, precision, sel, trust, architecture
        As for :func:`load_mace`.

    Returns
    -------
    dict[str, MaceModel]
        By name, in the file's order; equal in everything before the readouts.

    Raises
    ------
    ValueError
        If the file cannot be converted, or is not one of native MACE.
    """
    with explained(source):
        if not trust and _plugin_file(source) is not None:
            raise NotConvertible(
                f"{source} is of deepmd-gnn 0.x: convert one branch after the other, with --head."
            )
        native = read_native(source, trust, architecture)
        return {
            head: _load(native, describe(native, head), elements, precision, sel)
            for head in head_names(native)
        }


def _plugin_file(source: str | Path) -> PluginFile | None:
    """A file of the other plugin, or None; one of the package nequip is refused."""
    if read_package_file(source) is not None:
        raise NotConvertible(
            f"{source} is a model of {NAME}: `deepmd-gnn convert` and deepmd_gnn.convert read it, but it is no MACE model and has one head."
        )
    return read_plugin_file(source)


@contextmanager
def explained(source: str | Path, expected: str = "energy models of mace-torch 0.2 to 0.3") -> Iterator[None]:
    """Replace errors of Python, met where a file is not built as expected, by a sentence; ours say what they have to."""
    try:
        yield
    except (NotConvertible, FileError, HeadError):
        raise
    except KeyError as error:
        raise NotConvertible(f"{source} lacks {error}, which {expected} have. Not converted.") from error
    except _UNEXPECTED as error:
        if str(error).startswith(("mace model:", "nequip model:")):
            raise
        raise NotConvertible(
            f"{source} is built otherwise than the {expected}, or damaged. Not converted."
        ) from error


def _load(
    native: NativeModule,
    description: NativeDescription,
    elements: list[str] | None,
    precision: str | None,
    sel: int | None,
) -> MaceModel:
    wanted = description.type_map if elements is None else list(elements)
    check_elements(wanted, description.type_map)
    options = dict(description.options)
    if precision is not None:
        if precision not in PRECISIONS:
            fail("precision", precision, "one of " + ", ".join(PRECISIONS))
        options["precision"] = precision
    if sel is not None:
        options["sel"] = sel
    # New elements of a later fine-tuning start from this seed.
    config = MaceConfig(**options, seed=1)
    return _build(native, description, config, wanted)


def check_elements(wanted: list[str], known: list[str]) -> None:
    """Refuse elements to keep that a model does not have.

    Parameters
    ----------
    wanted : list[str]
        What a user asks for.
    known : list[str]
        The model's type map.

    Raises
    ------
    ValueError
        If one is not known or named twice, or there is none.
    """
    missing = [name for name in wanted if name not in known]
    if missing or not wanted or len(set(wanted)) < len(wanted):
        fail("elements", ",".join(wanted), f"a list without repetition from {', '.join(known)}")


def _build(
    native: NativeModule, description: NativeDescription, config: MaceConfig, wanted: list[str]
) -> MaceModel:
    known = description.type_map
    shapes = {name: tuple(tensor.shape) for name, tensor in native.named_tensors() if tensor.numel()}
    wrong = misfit(config, len(known), shapes, len(description.heads))
    if wrong:
        raise NotConvertible(
            f"What the file says of itself does not fit its weights ({wrong}). Not converted."
        )
    with on_cpu():  # where the tensors of the file are
        network = build_energy(config, [atomic_numbers[element_of(name)] for name in known])
        load_weights(network, native, description)
    energies = {name: config.atomic_energies[name] for name in wanted}
    config = dataclasses.replace(config, atomic_energies=energies)
    model = MaceModel(type_map=wanted, **config.to_dict())
    copy_elements(
        network.to(env.DEVICE), model.energy_model, [(known.index(n), i) for i, n in enumerate(wanted)]
    )
    model.eval()
    return model
