"""Statistics of the training data that are part of a model: neighbours per atom, size of the forces, observed elements, E0."""

import logging
from collections.abc import Callable

from deepmd.utils.path import DPPath

from deepmd_gnn.config.mm_types import is_mm
from deepmd_gnn.host.bias import fit_energies, given_bias, given_types, take_given
from deepmd_gnn.host.counts import CachedNumbers, count_forces, count_neighbors
from deepmd_gnn.host.evaluation import Evaluation
from deepmd_gnn.host.labels import Sampled, checked
from deepmd_gnn.host.observed_types import observed_record
from deepmd_gnn.stat_compat import observed_elements

log = logging.getLogger("deepmd.deepmd_gnn")


def compute_or_load_stat(
    model: Evaluation,
    sampled_func: Callable[[], Sampled],
    stat_file_path: DPPath | None = None,
    preset_observed_type: list[str] | None = None,
) -> None:
    """Set the statistics that are "auto", from the stat file if it has them, else from the data.

    Parameters
    ----------
    model : Evaluation
        The model.
    sampled_func : Callable
        Returns sampled frames of each training system.
    stat_file_path : DPPath, optional
        Where statistics are kept.
    preset_observed_type : list[str], optional
        Elements of the data, if the user names them.
    """
    sampled_func = checked(sampled_func)
    seed = getattr(model.config, "seed", None)
    log.info(
        "%s seed of new weights: %s",
        model.title,
        "that of training" if seed is None else f"{seed}, of the model section",
    )
    path = None if stat_file_path is None else stat_file_path / " ".join(model.type_map)
    observed = preset_observed_type or observed_elements(sampled_func, path, model.type_map)
    model.observed.copy_(observed_record(observed, model.type_map))
    cache = CachedNumbers(path, f"r{model.rcut:g}{_exclusion_tag(model)}")
    _set_avg_num_neighbors(model, sampled_func, cache)
    _set_scale(model, sampled_func, cache)
    _tell_old_defaults(model)
    given = given_bias(model)
    # The host would take what the file has in place of what is given, and keep what is given as if fitted.
    fitted = fit_energies(
        model, sampled_func, stat_file_path=None if given_types(model, given) else path, preset_bias=given
    )
    if fitted is None:
        take_given(model, given)
    else:
        model.out_bias.copy_(fitted)
    for name, value in zip(model.type_map, model.out_bias.flatten().tolist(), strict=True):
        log.info("%s atomic energy E0 of %s: %.6f eV", model.title, name, value)


def _set_avg_num_neighbors(
    model: Evaluation, sampled_func: Callable[[], Sampled], cache: CachedNumbers
) -> None:
    origin = "given"
    if model.config.avg_num_neighbors == "auto":
        allowed = model.graphs.pair_allowed if model.graphs.excludes_pairs else None
        (edges, atoms), origin = _count(
            model, "avg_num_neighbors", cache, lambda: count_neighbors(sampled_func(), model.rcut, allowed)
        )
        model.energy_model.avg_num_neighbors.fill_(edges / atoms if atoms else 1.0)
    log.info(
        "%s avg_num_neighbors: %.4f (%s)", model.title, float(model.energy_model.avg_num_neighbors), origin
    )


def _set_scale(model: Evaluation, sampled_func: Callable[[], Sampled], cache: CachedNumbers) -> None:
    origin = "given"
    if model.config.scale == "auto":
        counts = [not is_mm(name) for name in model.type_map]
        (squares, components), origin = _count(
            model, "scale", cache, lambda: count_forces(sampled_func(), counts)
        )
        value = (squares / max(components, 1.0)) ** 0.5
        origin = f"rms force component {origin}"
        if value < 1e-6:
            log.warning(
                "%s scale: the training data has no forces or only zero forces; using 1.", model.title
            )
            value = 1.0
        model.energy_model.scale.fill_(value)
    log.info("%s scale: %.6f (%s)", model.title, float(model.energy_model.scale), origin)


def _tell_old_defaults(model: Evaluation) -> None:
    """Say once what an input of the other plugin, deepmd-gnn 0.x, means differently here: the keys are the same."""
    config = model.config
    ours = {
        "avg_num_neighbors (there: sel)": config.avg_num_neighbors == "auto",
        "scale (there: std = 1)": config.scale == "auto",
        "precision float64 (there: float32)": getattr(config, "precision", "") == "float64",
    }
    chosen = [name for name, differs in ours.items() if differs]
    if chosen:
        log.info(
            "%s: unlike the defaults of deepmd-gnn 0.x, the other plugin of this name, are %s (docs: Coming from deepmd-gnn 0.x)",
            model.title,
            ", ".join(chosen),
        )


def _count(
    model: Evaluation, name: str, cache: CachedNumbers, count: Callable[[], list[float]]
) -> tuple[list[float], str]:
    """What a statistic is made of, kept for tasks that share it, and where it is from."""
    numbers, origin = cache.load(name), "from the stat file"
    if numbers is None or len(numbers) != 2:
        numbers, origin = count(), "from the training data"
        cache.save(name, numbers)
    model.counted[name] = numbers
    return numbers, origin


def _exclusion_tag(model: Evaluation) -> str:
    """What the number of neighbours depends on besides the cutoff; empty where all types see each other."""
    ntypes = len(model.type_map)
    pairs = [
        f"{i}-{j}" for i in range(ntypes) for j in range(i, ntypes) if not model.graphs.pair_allowed[i][j]
    ]
    return "".join(f"_without{pair}" for pair in pairs)
