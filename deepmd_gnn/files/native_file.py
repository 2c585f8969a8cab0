"""Native MACE files as plain data: the tree of modules, their settings and tensors, and what cannot be converted."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from deepmd_gnn.files.archives import FileError, check_regular, without_end_refused
from deepmd_gnn.files.safe_pickle import Record, TorchFile, records_in

_MODELS = ("MACE", "ScaleShiftMACE")
_LAMMPS_WRAPPERS = ("LAMMPS_MACE", "LAMMPS_MLIAP_MACE", "MACEEdgeForcesWrapper")
_OTHER_MODELS = {
    "MACELES": "long-range electrostatics (latent Ewald summation, LES): needs the reciprocal space of the whole cell",
    "PolarMACE": "long-range electrostatics and polarisation: needs the reciprocal space of the whole cell",
    "AtomicDipolesMACE": "a dipole model: it has no energy",
    "AtomicDielectricMACE": "a dipole and polarisability model: it has no energy",
    "EnergyDipolesMACE": "energies and dipoles: the dipoles would be lost",
}
_OTHER_PARTS = {
    "les": "long-range electrostatics (LES)",
    "les_readouts": "long-range electrostatics (LES)",
    "coulomb_energy": "long-range electrostatics",
}
_PARTS = (
    "node_embedding",
    "radial_embedding",
    "spherical_harmonics",
    "atomic_energies_fn",
    "interactions",
    "products",
    "readouts",
    "scale_shift",
    "pair_repulsion_fn",
)
# Of models with embedding_specs.
_EMBEDDING = ("joint_embedding", "embedding_readout")

# Of irreps in a file; nested tuples that share parts have endlessly many.
_MOST_PARTS = 100_000
_NO_IRREPS = "irreps in the file could not be read"


class NotConvertible(ValueError):
    """A model with a part that has no counterpart here; the message names it and says why."""


class NativeModule:
    """A module of a native file, from an eager pickle or a TorchScript archive.

    Parameters
    ----------
    record : Record
        The module's record.
    """

    def __init__(self, record: Record, known: "dict[int, NativeModule] | None" = None) -> None:
        # A module that has several parents is one module; otherwise a small file could hold endlessly many.
        known = {} if known is None else known
        known[id(record)] = self
        state = record.state
        if not isinstance(state, dict):
            raise FileError(f"the file's {record.qualname} has no state; it is damaged or of another kind")
        self.name = record.name
        """Name of the class."""
        self.record = record
        """Everything that the file says about it."""
        self.qualname = record.qualname
        """Module and name of the class or function."""
        self.code: dict[str, str] = {}
        """Source files of a TorchScript archive, to look up what is stored nowhere else (set on the whole model)."""
        self.stored_head: int | None = None
        """Index of the head that a file for LAMMPS was made for (set on the whole model)."""
        parts = {key: value for key, value in state.items() if not key.startswith("_")}
        for group in ("_parameters", "_buffers", "_modules"):
            parts.update(state.get(group) or {})
        parameters = state.get("_parameters")
        self.trainable: set[str] | None = None if parameters is None else set(parameters)
        """Names of the parameters among the tensors; a TorchScript archive does not tell them apart."""
        self.tensors = {k: v for k, v in parts.items() if isinstance(v, torch.Tensor)}
        """Parameters and buffers."""
        self.children = {
            k: known.get(id(v)) or NativeModule(v, known) for k, v in parts.items() if _is_module(v)
        }
        """Submodules."""
        rest = {k: v for k, v in parts.items() if k not in self.tensors and k not in self.children}
        self.settings: dict[str, Any] = rest
        """Everything else: numbers, names, irreps (records)."""

    def __getitem__(self, path: str) -> "NativeModule":
        module = self
        for name in path.split("."):
            if name not in module.children:
                raise NotConvertible(
                    f"The file's {self.name} has no part '{path}'; this is no MACE energy model of mace-torch 0.2 to 0.3."
                )
            module = module.children[name]
        return module

    def layers(self, path: str) -> list["NativeModule"]:
        """Elements of a ``ModuleList``."""
        children = self[path].children
        return [children[name] for name in sorted(children, key=int)]

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All parameters and buffers, of any shape, named as in a state dict; those of a module with several parents once."""
        seen = {id(self)}
        waiting = [("", self)]
        while waiting:
            prefix, module = waiting.pop()
            for name, tensor in module.tensors.items():
                yield prefix + name, tensor
            new = []
            for name, child in module.children.items():
                if id(child) not in seen:
                    seen.add(id(child))
                    new.append((f"{prefix}{name}.", child))
            waiting += reversed(new)


def _is_module(value: Any) -> bool:
    if not isinstance(value, Record) or not isinstance(value.state, dict):
        return False
    return "_modules" in value.state or value.qualname.startswith("__torch__.")


def named_class(path: str | Path) -> str | None:
    """Name of the class of MACE's that a file holds.

    Parameters
    ----------
    path : str or Path
        Any file.

    Returns
    -------
    str or None
        None if it holds something else.

    Raises
    ------
    FileError
        If the file cannot be read.
    """
    check_regular(Path(path))
    content = TorchFile(path).content
    if not isinstance(content, Record):
        return None
    known = (*_MODELS, *_LAMMPS_WRAPPERS, *_OTHER_MODELS)
    return content.name if content.name in known else None


def read_native(
    path: str | Path, trust: bool = False, architecture: str | Path | None = None
) -> NativeModule:
    """Read a native MACE file, without executing anything in it unless it is trusted.

    Parameters
    ----------
    path : str or Path
        A pickled ``.model``, a TorchScript ``*_compiled.model`` or ``.model-lammps.pt``, or with `architecture` a
        training checkpoint.
    trust : bool
        Load with torch's full unpickler, which executes code from the file. For files in older formats of torch.
    architecture : str or Path, optional
        For a training checkpoint, which holds weights only: a ``.model`` of the same training.

    Returns
    -------
    NativeModule
        The MACE or ScaleShiftMACE module.

    Raises
    ------
    FileError
        If the file is damaged or of another kind.
    NotConvertible
        If the model has a part that cannot be converted.
    """
    check_regular(Path(path))
    file = TorchFile(path, _trusted_bytes(path) if trust else None)
    content = file.content
    if isinstance(content, dict):
        return _with_weights(path, content, architecture, trust)
    if not isinstance(content, Record) or not isinstance(content.state, dict):
        raise FileError(f"{path} holds {type(content).__name__}, not a MACE model.")
    content, head = _unwrapped(content)
    with without_end_refused(path):
        refuse(content, path)
        model = NativeModule(content)
    model.code = file.code
    model.stored_head = head
    return model


def _trusted_bytes(path: str | Path) -> bytes:
    """Load with code execution and save again in today's format."""
    from deepmd_gnn.files.import_order import allow_e3nn_constants, import_mace

    allow_e3nn_constants()
    import_mace()  # the file would import it, and with it change the environment
    buffer = io.BytesIO()
    torch.save(torch.load(path, map_location="cpu", weights_only=False), buffer)
    return buffer.getvalue()


def _with_weights(
    path: str | Path, content: dict[str, Any], architecture: str | Path | None, trust: bool
) -> NativeModule:
    """Put the weights of a checkpoint into a model of the same architecture."""
    weights = content.get("model", content)
    if (
        not isinstance(weights, dict)
        or "_extra_state" in weights
        or "interactions.0.linear_up.weight" not in weights
    ):
        raise FileError(f"{path} is not a MACE model, and not a training checkpoint of one.")
    if architecture is None:
        raise FileError(
            f"{path} is a training checkpoint: it holds weights, but neither the blocks nor avg_num_neighbors nor the "
            "heads. Give a .model that mace_run_train wrote in the same training with --architecture FILE. (Its .model "
            "holds the averaged weights, EMA, which are usually better than those of the checkpoint.)"
        )
    model = read_native(architecture, trust)
    ours = dict(model.named_tensors())
    for name, tensor in weights.items():
        if any(part.startswith("_") for part in name.split(".")):
            continue  # e3nn's own constants
        known = ours.get(name)
        if not isinstance(tensor, torch.Tensor) or (tensor.numel() and known is None):
            raise FileError(f"'{name}' of {path} is not in {architecture}, which is another architecture.")
        if known is not None and known.shape != tensor.shape:
            raise FileError(
                f"'{name}' has shape {tuple(tensor.shape)} in {path}, but {tuple(known.shape)} in {architecture}."
            )
        if known is not None:
            *modules, last = name.split(".")
            (model[".".join(modules)] if modules else model).tensors[last] = tensor
    missing = [name for name, tensor in ours.items() if tensor.numel() and name not in weights]
    if missing:
        raise FileError(f"{path} lacks {', '.join(missing[:5])}, which {architecture} has.")
    return model


def refuse(content: Record, path: str | Path) -> None:
    """Stop at models that cannot be converted, before any work.

    Parameters
    ----------
    content : Record
        Content of a file.
    path : str or Path
        Its name, for the message.

    Raises
    ------
    NotConvertible
        With the name of the part and the reason.
    """
    if content.name in _OTHER_MODELS:
        raise NotConvertible(f"{path} is a {content.name}: {_OTHER_MODELS[content.name]}. Not converted.")
    if content.name not in _MODELS:
        raise NotConvertible(
            f"{path} holds a {content.qualname}, not one of {', '.join(_MODELS)}. Not converted."
        )
    for record in records_in(content):
        if "lora" in record.qualname.lower():
            raise NotConvertible(
                f"{path} holds LoRA adapters ({record.name}): merge them with MACE before converting. Not converted."
            )
    parts = NativeModule(content)
    for name in parts.children:
        if name in _EMBEDDING:
            if isinstance(parts.settings.get("embedding_specs"), dict):
                continue
            raise NotConvertible(
                f"{path} has '{name}', an embedding of the total charge, spin or other quantities of the whole system, but "
                "does not say of which ones (embedding_specs). Not converted."
            )
        if name in _OTHER_PARTS:
            raise NotConvertible(f"{path} has '{name}': {_OTHER_PARTS[name]}. Not converted.")
        if name not in _PARTS:
            raise NotConvertible(
                f"{path} has a part '{name}' that mace-torch's energy models do not have. Not converted."
            )


def _unwrapped(content: Record) -> tuple[Record, int | None]:
    """Look into the wrappers of a model that was made for LAMMPS, ML-IAP's has two: the model, and the head made for."""
    head = None
    for _ in range(2):
        if content.name in _LAMMPS_WRAPPERS and isinstance(content.state, dict):
            state = {
                **content.state,
                **(content.state.get("_buffers") or {}),
                **(content.state.get("_modules") or {}),
            }
            stored = state.get("head")
            if isinstance(stored, torch.Tensor) and stored.numel() == 1:
                head = int(stored)
            content = state["model"] if isinstance(state.get("model"), Record) else content
    return content, head


def irreps_of(value: Any) -> list[tuple[int, int, str]]:
    """Translate irreps of a file.

    Parameters
    ----------
    value : Any
        A string, nested tuples (TorchScript), or records of e3nn's or cuequivariance's classes.

    Returns
    -------
    list[tuple[int, int, str]]
        Multiplicity, l and parity (``"e"`` or ``"o"``) of each term.
    """
    if isinstance(value, str):
        from deepmd_gnn.config.checks import parse_irreps

        return parse_irreps(value)
    numbers = _numbers(value)
    if not numbers or len(numbers) % 3:
        raise FileError(_NO_IRREPS)
    triples = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    return [(mul, ell, "e" if parity == 1 else "o") for mul, ell, parity in triples]


def irreps_text(terms: list[tuple[int, int, str]]) -> str:
    """Spell irreps, e.g. ``"16x0e + 16x1o"``."""
    return " + ".join(f"{mul}x{ell}{parity}" for mul, ell, parity in terms)


def _numbers(value: Any) -> list[int]:
    """Integers in nested records, in their order."""
    found: list[int] = []
    waiting = [value]
    for _ in range(_MOST_PARTS):
        if not waiting:
            return found
        part = waiting.pop()
        if isinstance(part, Record):
            waiting.append(part.arguments)
        elif isinstance(part, (tuple, list)):
            waiting += reversed(part)
        elif isinstance(part, int):
            found.append(part)
    raise FileError(_NO_IRREPS)
