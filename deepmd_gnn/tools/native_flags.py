"""Every flag of ``mace_run_train``: what becomes of it here, and why. The documentation shows this table."""

from dataclasses import dataclass

TRANSLATED, REPLACED, DROPPED = "translated", "replaced", "dropped"


@dataclass(frozen=True)
class Flag:
    """One flag."""

    name: str
    fate: str
    """Translated: the same value has the same meaning. Replaced: something else does the job. Dropped: nothing does."""
    target: str
    """Key of the input, or command; empty if dropped."""
    why: str
    aliases: tuple[str, ...] = ()
    switch: bool = False
    """Whether it takes no value on the command line."""


def _translated(target: str, *names: str, why: str = "the same") -> list[Flag]:
    return [Flag(name, TRANSLATED, target or f"model.{name}", why) for name in names]


def _replaced(target: str, why: str, *names: str) -> list[Flag]:
    return [Flag(name, REPLACED, target, why) for name in names]


def _dropped(why: str, *names: str) -> list[Flag]:
    return [Flag(name, DROPPED, "", why) for name in names]


_PLACES = "`dp` writes into the folder it runs in"
_POLAR = "PolarMACE (long-range electrostatics) is not supported"
_DIPOLES = "only energies, forces and virials are learned"
_REPLAY = "training on the foundation model's own data: `deepmd-gnn finetune --replay` (docs/fine_tuning.md) does it, or multi-task training by hand"
_WANDB = 'tensorboard instead: `"tensorboard": true` in `training`'
_STAGE_TWO = (
    "the energy weight grows as the learning rate falls, which does what stage two does, without a step"
)

_GROUPS: list[list[Flag]] = [
    [Flag("config", TRANSLATED, "--like FILE", "a YAML file with flags")],
    _dropped("a checkpoint is called model.ckpt", "name"),
    _translated("training.seed", "seed", why="of weights and order of frames; and `deepmd-gnn data --seed`, with the same validation frames"),
    _dropped(_PLACES, "work_dir", "log_dir", "model_dir", "checkpoints_dir", "results_dir", "downloads_dir"),
    _dropped("`dp` takes a GPU if it sees one; `CUDA_VISIBLE_DEVICES=\"\"` hides it", "device"),
    _translated("model.precision", "default_dtype", why="float32: energies, E0 and geometry are summed in float64 all the same"),
    _replaced("torchrun", "`torchrun --nproc_per_node N dp --pt train`", "distributed", "launcher"),
    _replaced("dp train -v", "level of the log: `dp --pt train input.json -v 3`", "log_level"),
    _replaced("deepmd-gnn plot", "`deepmd-gnn plot lcurve` and `deepmd-gnn plot parity`, when you want them", "plot", "plot_frequency", "plot_interaction_e"),
    _replaced("dp test", "`dp --pt test`, or `deepmd-gnn evaluate`", "error_table"),
    _translated("model.type", "model", why="MACE and ScaleShiftMACE; others are refused"),
    _translated("", "r_max", "radial_type", "num_radial_basis", "num_cutoff_basis", "distance_transform", "use_last_readout_only",
                "interaction", "max_ell", "correlation", "use_so3", "use_agnostic_product", "num_interactions", "MLP_irreps", "radial_MLP",
                "hidden_irreps", "edge_irreps", "use_edge_irreps_first", "num_channels", "max_L", "gate"),
    [Flag("pair_repulsion", TRANSLATED, "model.pair_repulsion", "the same", switch=True)],
    _translated("model.apply_cutoff", "apply_cutoff", why="native's default true is left out with attentive and non-linear blocks, whose energy would jump"),
    _translated("model.interaction_first", "interaction_first", why="native's model MACE makes RealAgnosticInteractionBlock of all but the two blocks without residual, so does this"),
    _dropped("couplings of the same space; full ones are used", "use_reduced_cg"),
    _translated("model.embeddings", "embedding_specs", why="the same; the data need the values: `deepmd-gnn data --fparam`"),
    _translated("", "use_embedding_readout"),
    _dropped(_POLAR, "kspace_cutoff_factor", "atomic_multipoles_max_l", "atomic_multipoles_smearing_width", "field_feature_max_l",
             "field_feature_widths", "field_feature_norms", "num_recursion_steps", "field_si", "include_electrostatic_self_interaction",
             "add_local_electron_energy", "quadrupole_feature_corrections", "return_electrostatic_potentials", "field_norm_factor",
             "fixedpoint_update_config", "field_readout_config", "les_arguments"),
    _replaced("model.scale", "always the root mean square of the forces (`\"scale\": \"auto\"`), native's default; no_scaling: 1", "scaling"),
    _translated("model.avg_num_neighbors", "avg_num_neighbors", why="only with compute_avg_num_neighbors=False; else from the data, as in native MACE"),
    _translated("model.avg_num_neighbors", "compute_avg_num_neighbors", why='True: "auto"'),
    _dropped("stress and forces are always computed", "compute_stress", "compute_forces"),
    _dropped(_DIPOLES, "compute_polarizability", "compute_atomic_dipole"),
    _translated("deepmd-gnn data FILE", "train_file", why="converted first, if the data folder does not exist"),
    _translated("deepmd-gnn data --valid", "valid_file", why="as train_file"),
    _translated("deepmd-gnn data --valid-fraction", "valid_fraction", why="the same frames with the same seed"),
    _translated("deepmd-gnn data --test", "test_file", why="as train_file"),
    _replaced("deepmd-gnn data --test", "give the files one by one", "test_dir", "multi_processed_test"),
    _replaced("NUM_WORKERS", "an environment variable of DeePMD-kit", "num_workers", "pin_memory"),
    _translated("model.type_map", "atomic_numbers", why="elements instead of numbers, in this order"),
    _dropped("the shift is part of E0 here", "mean"),
    _translated("model.scale", "std", why="the same"),
    _replaced("training.stat_file", "DeePMD-kit's own file of statistics", "statistics_file"),
    _translated("model.atomic_energies", "E0s", why='average: "auto" (least squares); a dict or a JSON file: the same; none or isolated atoms: data/e0.json; foundation, estimated: those of the converted model'),
    _dropped(_REPLAY, "pseudolabel_replay", "pseudolabel_replay_compute_stress", "weight_pt_head", "real_pt_data_ratio_threshold",
             "num_samples_pt", "force_mh_ft_lr", "subselect_pt", "filter_type_pt", "disallow_random_padding_pt", "pt_train_file",
             "pt_valid_file", "skip_evaluate_heads"),
    _replaced("deepmd-gnn convert --elements", "elements of the data are kept", "foundation_filter_elements", "foundation_model_elements"),
    _replaced("multi-task training", "one head each for several data sets: docs/training.md", "heads", "head_key"),
    _replaced("--finetune", "one head: the converted model is trained on with the new data alone; with the old data too: `deepmd-gnn finetune --replay`", "multiheads_finetuning"),
    _translated("deepmd-gnn convert --head", "foundation_head"),
    _dropped("isolated atoms go to e0.json, and the model has exactly these energies", "keep_isolated_atoms"),
    _replaced("model.adapters", "rank and alpha are the same, factors of the products differ from native's; with a foundation model only", "lora", "lora_rank", "lora_alpha"),
    _translated("deepmd-gnn data --energy-key", "energy_key", why="also energy, if REF_energy is not there"),
    _translated("deepmd-gnn data --forces-key", "forces_key", why="also forces"),
    _translated("deepmd-gnn data --virials-key", "virials_key", why="also virials, virial"),
    _translated("deepmd-gnn data --stress-key", "stress_key", why="also stress; becomes a virial"),
    _dropped(_DIPOLES, "dipole_key", "polarizability_key", "charges_key"),
    _replaced("deepmd-gnn data --fparam", "`--fparam total_charge=KEY`; with `--like` done for you", "elec_temp_key", "total_spin_key", "total_charge_key"),
    _translated("loss", "loss", why="weighted, forces_only, virials: the same; stress: weight of the virial by the mean volume per atom; huber, universal, ef, l1l2energyforces: squares with the same weights"),
    _translated("loss.start_pref_f", "forces_weight"),
    _translated("loss.start_pref_e", "energy_weight", why="per atom, as in native MACE (intensive_ener_virial)"),
    _translated("loss.start_pref_v", "virials_weight", why="per atom"),
    _translated("loss.start_pref_v", "stress_weight", why="divided by the square of the mean volume per atom: the loss of DeePMD-kit has virials"),
    [Flag("swa_forces_weight", REPLACED, "loss.limit_pref_f", _STAGE_TWO, ("stage_two_forces_weight",)),
     Flag("swa_energy_weight", REPLACED, "loss.limit_pref_e", _STAGE_TWO, ("stage_two_energy_weight",)),
     Flag("swa_virials_weight", REPLACED, "loss.limit_pref_v", _STAGE_TWO, ("stage_two_virials_weight",)),
     Flag("swa_stress_weight", REPLACED, "loss.limit_pref_v", _STAGE_TWO, ("stage_two_stress_weight",)),
     Flag("swa_dipole_weight", DROPPED, "", _DIPOLES, ("stage_two_dipole_weight",)),
     Flag("swa_polarizability_weight", DROPPED, "", _DIPOLES, ("stage_two_polarizability_weight",))],
    _dropped(_DIPOLES, "dipole_weight", "polarizability_weight"),
    _replaced("deepmd-gnn data --by-config-type", "folders for each type, whose weights are `\"auto_prob\": \"prob_sys_size; 0:1:0.3; 1:2:0.7\"` in training_data", "config_type_weights"),
    _dropped("the loss has squares instead of Huber's function", "huber_delta"),
    _translated("optimizer.type", "optimizer", why="adam, adamw: the same; schedulefree: Adam with the recipe's schedule"),
    _translated("optimizer.adam_beta1", "beta"),
    _dropped("only of the optimiser schedulefree", "beta1_schedulefree", "beta2_schedulefree"),
    _translated("training.training_data.batch_size", "batch_size", why="frames"),
    _translated("training.validation_data.batch_size", "valid_batch_size", why="frames"),
    _translated("learning_rate.start_lr", "lr"),
    [Flag("swa_lr", REPLACED, "learning_rate.stop_lr", "the rate falls in a straight line over the last half to 1e-5", ("stage_two_lr",))],
    _translated("optimizer.weight_decay", "weight_decay", why="with adamw; DeePMD-kit's Adam has none, and native's 5e-7 changes nothing that was measured"),
    _dropped("one rate for all parts", "lr_params_factors"),
    _replaced("model.freeze", "names of parts instead of a number", "freeze"),
    [Flag("amsgrad", DROPPED, "", "DeePMD-kit's Adam has none; with a falling rate none is needed", switch=True)],
    _replaced("learning_rate.type", "wsd: constant, then a straight line; no rate depends on the validation error", "scheduler", "lr_factor",
              "scheduler_patience", "lr_scheduler_gamma"),
    [Flag("swa", REPLACED, "learning_rate, loss", _STAGE_TWO, ("stage_two",), switch=True),
     Flag("start_swa", REPLACED, "learning_rate.decay_phase_ratio", "0.5: the rate begins to fall earlier than native's stage two, and gradually", ("start_stage_two",))],
    [Flag("lbfgs", DROPPED, "", "no LBFGS at the end; the falling rate converges", switch=True),
     Flag("ema", TRANSLATED, "training.enable_ema", "the same", switch=True)],
    _translated("training.ema_decay", "ema_decay"),
    _translated("training.numb_steps", "max_num_epochs", why="epochs times batches of an epoch"),
    _replaced("DEEPMD_GNN_PATIENCE", "an environment variable of the training, in validations (disp_freq); `deepmd-gnn finetune --patience`", "patience"),
    _translated("deepmd-gnn convert", "foundation_model", why="the file, or the model of that name, is converted, its architecture taken, and its weights are the start of `dp train --finetune`"),
    _dropped("arguments of a calculator, which is not made", "foundation_model_kwargs"),
    _dropped("the readout is always taken over", "foundation_model_readout"),
    _replaced("training.disp_freq", "in steps", "eval_interval"),
    _replaced("training.max_ckpt_keep", "how many checkpoints are kept", "keep_checkpoints", "save_all_checkpoints"),
    _replaced("dp --pt train --restart", "`dp --pt train input.json --restart model.ckpt.pt`", "restart_latest"),
    _dropped("checkpoints load on any device", "save_cpu"),
    _translated("training.gradient_max_norm", "clip_grad"),
    _dropped("init writes the input and trains nothing", "dry_run"),
    _translated("model.enable_cueq", "enable_cueq"),
    _dropped("cuEquivariance's layout only: use enable_cueq", "only_cueq"),
    _dropped("OpenEquivariance: compiled kernels of .pt2 instead, or enable_compile", "enable_oeq"),
    _dropped(_WANDB, "wandb", "wandb_dir", "wandb_project", "wandb_entity", "wandb_name", "wandb_log_hypers"),
]  # fmt: skip

# Native's switches that no other line marks.
_SWITCHES = {
    "distributed", "disallow_random_padding_pt", "foundation_model_readout", "keep_checkpoints", "save_all_checkpoints",
    "restart_latest", "save_cpu", "dry_run", "wandb",
}  # fmt: skip

FLAGS: dict[str, Flag] = {flag.name: flag for group in _GROUPS for flag in group}
ALIASES: dict[str, str] = {alias: flag.name for flag in FLAGS.values() for alias in flag.aliases}


def is_switch(name: str) -> bool:
    """Whether a flag takes no value on the command line."""
    return FLAGS[name].switch or name in _SWITCHES
