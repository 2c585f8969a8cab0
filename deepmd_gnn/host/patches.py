"""What is replaced in DeePMD-kit 3.2, for which it has no hooks: everything in this table, and nothing elsewhere.

Each replacement calls the original for models that are not ours. :func:`apply` is called when a model is registered, and again
before a model is built or trained, for modules that the host imports later; what is replaced already stays.
(:mod:`~deepmd_gnn.files.backend_guard` looks at files before a backend, and with it torch, is imported, and is applied by the
entry point ``deepmd.backend``.) All are for deepmd-kit >= 3.2, < 3.3; ``tests/host/test_contract.py`` says what has changed in
another version.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from deepmd_gnn.host.calculator import giving_deviations, noticing_info, reading_info
from deepmd_gnn.host.checkpoint_files import checking_checkpoints, looking_first, writing_whole
from deepmd_gnn.host.compiled_training import vectorised
from deepmd_gnn.host.deviation import comparing_type_maps
from deepmd_gnn.host.device_inference import with_kernels
from deepmd_gnn.host.freezing import whole_exports
from deepmd_gnn.host.inference_graphs import keeping_types, searching_here
from deepmd_gnn.host.model_size import counting
from deepmd_gnn.host.opening import without_alarm


class Patch(NamedTuple):
    """A function of the host that is replaced."""

    module: str
    name: str
    """Of the function, or Class.method."""
    replace: Callable[[Any], Any]
    """From the original to its replacement."""
    reason: str
    inherited: bool = False
    """Whether the class has the function from another one."""


PATCHES = (
    Patch(
        "deepmd.infer.deep_eval", "DeepEval._standard_input", keeping_types,
        "casts types to 32 bits, so that types outside the table become types of the model",
    ),
    Patch(
        "deepmd.infer.deep_eval", "DeepEval.get_model_size", counting,
        "counts parameters by names that TorchScript files have lost, and not at all for exported files",
    ),
    Patch(
        "deepmd.calculator", "DP.calculate", reading_info,
        "reads charge and spin as atoms.info[\"fparam\"] only, and gives no standard deviations",
    ),
    Patch(
        "deepmd.calculator", "DP.get_property", giving_deviations,
        "refuses properties that are not in a list", True,
    ),
    Patch(
        "deepmd.calculator", "DP.check_state", noticing_info,
        "keeps results when something in atoms.info has changed", True,
    ),
    Patch(
        "deepmd.infer.model_devi", "calc_model_devi", comparing_type_maps,
        "gives models whose types mean different elements the same types",
    ),
    Patch(
        "deepmd.pt.infer.deep_eval", "DeepEval.__init__", with_kernels,
        "scripts the model of a checkpoint, so that no generated kernel could run on a GPU",
    ),
    Patch(
        "deepmd.pt_expt.infer.deep_eval", "DeepEval._build_eval_graph", searching_here,
        "its neighbour searches die or never end on bad cells and coordinates",
    ),
    *(
        Patch(module, name, without_alarm, "opens files in a way that makes torch warn of nothing")
        for module, name in (
            ("deepmd.pt_expt.infer.deep_eval", "DeepEval._load_pt2"),
            ("deepmd.pt_expt.infer.deep_eval", "DeepEval._load_pte"),
            ("deepmd.pt_expt.utils.serialization", "_serialize_from_file_pte"),
        )
    ),
    Patch(
        "deepmd.pt_expt.utils.serialization", "deserialize_to_file", whole_exports,
        "writes in place, says nothing for minutes, and may be asked for a padded neighbour list",
    ),
    Patch(
        "deepmd.pt_expt.train.training", "_trace_and_compile_graph", vectorised,
        "switches vectorisation off for all models, because of atomic additions that ours do not have",
    ),
    *(
        patch
        for trainer in ("deepmd.pt.train.training", "deepmd.pt_expt.train.training")
        for patch in (
            Patch(
                trainer, "Trainer._write_checkpoint", writing_whole,
                "writes in place, and dp --pt notes the last step instead of the number of steps",
            ),
            Patch(
                trainer, "Trainer.__init__", checking_checkpoints,
                "says nothing of use about checkpoints that are cut short",
            ),
            Patch(
                trainer, "Trainer.run", looking_first,
                "trains on labels that are no numbers until the loss is none either, and has no early stop",
            ),
        )
    ),
)  # fmt: skip
_MARK = "__deepmd_gnn_original__"


def apply(backend: str | None = None) -> None:
    """Replace what is loaded and not replaced yet.

    Parameters
    ----------
    backend : str, optional
        ``"deepmd.pt"`` or ``"deepmd.pt_expt"``: import what evaluates and writes its files first. Trainers are imported by the
        host where somebody trains.
    """
    for patch in PATCHES if backend else ():
        if (
            patch.module.startswith(("deepmd.infer.", "deepmd.calculator", f"{backend}."))
            and ".train." not in patch.module
        ):
            importlib.import_module(patch.module)
    for patch in PATCHES:
        holder: Any = sys.modules.get(patch.module)
        *classes, name = patch.name.split(".")
        for attribute in classes:
            holder = getattr(holder, attribute, None)
        original = vars(holder).get(name) if holder is not None else None
        if original is None and patch.inherited:
            original = getattr(holder, name, None)
        if original is None or hasattr(original, _MARK):  # not imported, still being imported, or done
            continue
        replacement = patch.replace(original)
        setattr(replacement, _MARK, original)
        setattr(holder, name, replacement)
