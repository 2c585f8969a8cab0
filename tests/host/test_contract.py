"""Private names of DeePMD-kit and torch that the package uses: if one is gone or has other arguments, this says which file to change."""

import importlib
import inspect
from pathlib import Path

import pytest

from deepmd_gnn.host import patches

# Module, name, arguments (None: not a function), and the file of the package that relies on it. deepmd-kit 3.2.
HOST = [
    ("deepmd.infer.deep_eval", "DeepEval._standard_input", "self coords cells atom_types fparam aparam mixed_type", "host/inference_graphs.py"),
    ("deepmd.infer.deep_eval", "DeepEval.get_model_size", "self", "host/model_size.py"),
    ("deepmd.calculator", "DP.calculate", "self atoms properties system_changes", "host/calculator.py"),
    ("deepmd.calculator", "DP.get_property", "self name atoms allow_calculation", "host/calculator.py"),
    ("deepmd.calculator", "DP.check_state", "self atoms tol", "host/calculator.py"),
    (
        "deepmd.infer.model_devi", "calc_model_devi",
        "coord box atype models fname frequency mixed_type fparam aparam real_data atomic relative relative_v",
        "host/deviation.py",
    ),
    ("deepmd.pt.infer.deep_eval", "DeepEval.__init__", "self model_file output_def args auto_batch_size neighbor_list head no_jit nlist_backend kwargs", "host/device_inference.py"),
    ("deepmd.pt_expt.infer.deep_eval", "DeepEval._build_eval_graph", "self coord_input atom_types box_input device", "host/inference_graphs.py"),
    ("deepmd.pt_expt.infer.deep_eval", "DeepEval._load_pt2", "self model_file", "host/opening.py"),
    ("deepmd.pt_expt.infer.deep_eval", "DeepEval._load_pte", "self model_file", "host/opening.py"),
    ("deepmd.pt_expt.utils.serialization", "_serialize_from_file_pte", "model_file", "host/opening.py"),
    ("deepmd.pt_expt.utils.serialization", "deserialize_to_file", "model_file data model_json_override do_atomic_virial lower_kind", "host/freezing.py"),
    ("deepmd.pt_expt.train.training", "_trace_and_compile_graph", "model fparam aparam charge_spin spin compile_opts task_buffers", "host/compiled_training.py"),
    ("deepmd.pt.train.training", "Trainer._write_checkpoint", "self save_path checkpoint_data store", "host/checkpoint_files.py"),
    ("deepmd.pt.train.training", "Trainer.__init__", "self config training_data stat_file_spec validation_data init_model restart_model finetune_model force_load shared_links finetune_links init_frz_model", "host/checkpoint_files.py"),
    ("deepmd.pt.train.training", "Trainer.run", "self", "host/checkpoint_files.py"),
    ("deepmd.pt_expt.train.training", "Trainer._write_checkpoint", "self ckpt_path step include_optimizer include_ema_state", "host/checkpoint_files.py"),
    ("deepmd.pt_expt.train.training", "Trainer.__init__", "self config training_data stat_file_spec validation_data init_model restart_model finetune_model finetune_links shared_links", "host/checkpoint_files.py"),
    ("deepmd.pt_expt.train.training", "Trainer.run", "self", "host/checkpoint_files.py"),
    ("deepmd.pt_expt.model.make_model", "_translate_energy_keys", "model_ret do_grad_r do_grad_c do_atomic_virial local", "export.py"),
    ("deepmd.pt.utils.stat", "_restore_observed_type_from_file", "stat_file_path", "stat_compat.py"),
    ("deepmd.pt.utils.stat", "_save_observed_type_to_file", "stat_file_path observed_type", "stat_compat.py"),
    ("deepmd.pt.utils.stat", "collect_observed_types", "sampled type_map", "stat_compat.py"),
    ("deepmd.pt.utils.stat", "compute_output_stats", "merged ntypes keys stat_file_path rcond preset_bias model_forward stats_distinguish_types intensive", "stat_compat.py"),
    ("deepmd.pt.utils.update_sel", "UpdateSel.update_one_sel", "self train_data type_map rcut sel mixed_type", "host/model.py"),
    ("deepmd.dpmodel.utils.neighbor_graph", "pad_and_guard_edges", "edge_index edge_vec capacity min_edges pad_value", "host/inference_graphs.py"),
    ("deepmd.dpmodel.utils.neighbor_graph", "canonicalize_neighbor_graph", "graph n_nodes", "host/inference_graphs.py"),
    ("deepmd.backend.dpmodel", "DPModelBackend.serialize_hook", None, "files/backend_guard.py"),
    ("deepmd.backend.pytorch", "PyTorchBackend.deep_eval", None, "files/backend_guard.py"),
    ("deepmd.backend.pytorch", "PyTorchBackend.serialize_hook", None, "files/backend_guard.py"),
    ("deepmd.backend.pytorch", "PyTorchBackend.entry_point_hook", None, "files/backend_guard.py"),
    ("deepmd.backend.pt_expt", "PyTorchExportableBackend.deep_eval", None, "files/backend_guard.py"),
    ("deepmd.backend.pt_expt", "PyTorchExportableBackend.serialize_hook", None, "files/backend_guard.py"),
    ("deepmd.backend.pt_expt", "PyTorchExportableBackend.entry_point_hook", None, "files/backend_guard.py"),
]  # fmt: skip
# torch 2.11.
TORCH = [
    ("torch._inductor.codegen.cpp", "TilingSelect.select_tiling", "self fn_list var_sizes_list", "files/torch_fixes.py"),
    ("torch._inductor.decomposition", "register_decomposition", "ops", "host/compiled_training.py"),
    ("torch._inductor.decomposition", "fast_random_decomps", "", "host/compiled_training.py"),
    ("torch.fx.proxy", "CapturedTraceback.extract", None, "files/torch_fixes.py"),
    ("torch._inductor.config", "aot_inductor.custom_ops_to_c_shims", None, "kernels/cpu/compiler.py"),
    ("torch._inductor.config", "aot_inductor.custom_op_libs", None, "kernels/cpu/compiler.py"),
    ("torch._inductor.config", "cpp.enable_loop_tail_vec", None, "files/torch_fixes.py"),
    ("torch._inductor.config", "aot_inductor.precompile_headers", None, "files/torch_fixes.py"),
    ("torch._inductor.config", "unbacked_symint_fallback", None, "files/torch_fixes.py"),
    (
        "torch._inductor.select_algorithm",
        "AlgorithmSelectorCache.generate_example_value",
        "size stride device dtype extra_size allocation_size",
        "files/torch_fixes.py",
    ),
    ("torch._inductor.cpp_builder", "get_cpp_compiler", "", "kernels/cpu/compiler.py"),
    ("torch._inductor.cpp_builder", "CppBuilder.build", "self", "kernels/cpu/cache.py"),
    ("torch._inductor.cpu_vec_isa", "VecISA", None, "kernels/cpu/compiler.py"),
    ("torch._inductor.cpu_vec_isa", "invalid_vec_isa", None, "kernels/cpu/compiler.py"),
    ("torch._inductor.exc", "CppCompileError", None, "kernels/cpu/cache.py"),
    ("torch._inductor.exc", "InvalidCxxCompiler", None, "kernels/cpu/compiler.py"),
    ("torch._inductor.codecache", "get_lock_dir", "", "kernels/cpu/kept.py"),
    ("torch._inductor.runtime.cache_dir_utils", "cache_dir", "", "kernels/cpu/cache.py"),
    ("torch._dynamo.config", "fake_tensor_cache_enabled", None, "files/torch_fixes.py"),
    ("torch._functorch.config", "force_non_lazy_backward_lowering", None, "host/compiled_training.py"),
    ("torch._subclasses.fake_tensor", "FakeTensor", None, "nn/linear.py"),
    ("torch._utils", "_rebuild_tensor_v2", None, "files/safe_pickle.py"),
    ("torch._utils", "_rebuild_parameter", None, "files/safe_pickle.py"),
    ("torch._C._aoti", "AOTIModelPackageLoader", None, "files/opening.py"),
]  # fmt: skip


def looked_up(module, name):
    parent, _, last = module.rpartition(".")
    # Not everything of torch's C++ is a module that can be imported.
    found = (
        getattr(importlib.import_module(parent), last)
        if parent == "torch._C"
        else importlib.import_module(module)
    )
    for part in name.split("."):
        found = getattr(found, part)
    return getattr(found, "__deepmd_gnn_original__", found)


@pytest.mark.parametrize(("module", "name", "arguments", "file"), HOST + TORCH)
def test_private_name(module, name, arguments, file):
    advice = (
        f"{module}.{name} has changed: see deepmd_gnn/{file} and the contract in tests/host/test_contract.py"
    )
    try:
        found = looked_up(module, name)
    except (ImportError, AttributeError) as error:
        raise AssertionError(advice) from error
    if arguments is not None:
        assert [*inspect.signature(found).parameters] == arguments.split(), advice


def test_files_to_change_are_there():
    package = Path(patches.__file__).parents[1]
    assert [file for *_, file in HOST + TORCH if not (package / file).is_file()] == []


def test_every_patch_is_in_the_contract():
    known = {(module, name) for module, name, *_ in HOST}
    assert {(patch.module, patch.name) for patch in patches.PATCHES} <= known


@pytest.mark.parametrize("patch", patches.PATCHES, ids=lambda patch: f"{patch.module}.{patch.name}")
def test_patches_are_applied_once(patch):
    importlib.import_module(patch.module)
    patches.apply()
    replaced = importlib.import_module(patch.module)
    for part in patch.name.split("."):
        replaced = getattr(replaced, part)
    original = replaced.__deepmd_gnn_original__
    patches.apply()
    assert not hasattr(original, "__deepmd_gnn_original__")
    assert looked_up(patch.module, patch.name) is original
