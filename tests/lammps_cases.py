"""Systems, model files and LAMMPS cases of the rank tests."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
import torch
import torch._inductor.config as inductor_config
from architectures import architectures
from helpers import TINY, random_frame, tiny_model
from lammps_runner import PRESSURE_ORDER, Frame, Run, python_frame, read_frames, run_lammps, write_data
from matscipy.neighbours import neighbour_list
from shared_files import once

from deepmd_gnn.kernels.tables.scripted import tabulate

NULL = 2  # a type that the model does not have

# Random weights, scaled to forces of about 1 eV/Å; the second layer's messages make up a good part of them.
STRONG = {"scale": 60.0, "avg_num_neighbors": 4.0}
MODELS = architectures("lammps")
THREADED = architectures("frozen")
# Beside the model of a case, whose deviation from it is printed.
DEVIATING = {"second": "one_layer", "third": "third"}


class ModelFiles:
    """Frozen models by name, written on demand; ``blind_…`` is the same model without the feature exchange.

    Those that are tagged as frozen are compiled for two threads.
    """

    def __init__(self, folder, kind):
        self.folder, self.kind = folder, kind

    def __getitem__(self, name):
        # The models of a model deviation need not be of the same kind.
        kind = ".pth" if name == "third" else self.kind
        blind = name.startswith("blind_")

        def make(path):
            # Settings are part of what a compiled program is kept under: the others have those of `dp`, to share theirs with it.
            with inductor_config.patch({"cpp.threads": 2}) if name in THREADED else nullcontext():
                freeze(tiny_model(**STRONG, **MODELS[name.removeprefix("blind_")]), path, blind)

        return once(self.folder / f"{name}{kind}", make)

    def of_the_other_kind(self):
        """The same models in files of the other kind."""
        return ModelFiles(self.folder, ".pt2" if self.kind == ".pth" else ".pth")


def freeze(model, path, blind=False):
    """What ``dp freeze`` does, without a training run before it; optionally without the feature exchange."""
    if path.suffix == ".pth":
        model = copy.deepcopy(without_exchange(model) if blind else model)
        tabulate(model)
        torch.jit.script(model).save(str(path))
    elif path.suffix in (".pt2", ".pte"):
        from deepmd.pt_expt.utils import serialization

        data = {"model": model.serialize(), "model_def_script": {}}
        hidden = patch("deepmd_gnn.mace_network.Exchange", NoExchange) if blind else nullcontext()
        with hidden:
            serialization.deserialize_to_file(str(path), data)
    else:
        raise ValueError(f"unknown kind of model file: {path.name}")


class NoExchange(torch.nn.Module):
    """Leaves the features of ghosts zero between the layers."""

    def forward(
        self, features: torch.Tensor, nsender: int, comm_dict: dict[str, torch.Tensor] | None
    ) -> torch.Tensor:
        # One rank that folds its ghosts: the program is that of the model itself, and compiled already.
        if comm_dict is None:
            return features
        nghost = nsender - features.shape[0]
        return torch.cat([features, features.new_zeros(nghost, features.shape[1])])


def without_exchange(model):
    """The same model, except that ghosts keep zero features between the layers."""
    model.energy_model.exchange = NoExchange()
    return model


# --- systems: coordinates, types (counted from 0) and cell -------------------------------------------------------


def bulk():
    """A dense cell; cutoff and skin reach beyond half of it."""
    return random_frame(40, 8.0, seed=3, triclinic=False)


def tilted():
    return random_frame(40, 8.0, seed=4)


def images():
    """Four atoms that see several images of each other and of themselves."""
    return random_frame(4, 3.4, seed=5)


def cluster():
    """A cluster in the middle of a large cell, for free boundaries."""
    coord, kinds, _ = random_frame(30, 7.0, seed=6, triclinic=False)
    return coord + 6.5, kinds, np.eye(3) * 20.0


def slab():
    """Periodic in x and y, with vacuum above and below."""
    coord, kinds, cell = random_frame(30, 7.0, seed=7, triclinic=False)
    cell[2, 2] = 20.0
    return coord + [0.0, 0.0, 6.5], kinds, cell


def half_empty():
    """All atoms in the left third of x: of two ranks the right one has ghosts only."""
    coord, kinds, cell = random_frame(30, 7.0, seed=8, triclinic=False)
    cell[0, 0] = 24.0
    return coord, kinds, cell


def mostly_empty():
    """Of three ranks along x the first owns all atoms, the second has ghosts only, the third nothing at all."""
    coord, kinds, cell = half_empty()
    cell[0, 0] = 48.0
    return coord + [7.5, 0.0, 0.0], kinds, cell


def null_mixed():
    """Every third atom is of a type the model does not have, on both sides of every boundary."""
    coord, kinds, cell = bulk()
    kinds = kinds.copy()
    kinds[::3] = NULL
    return coord, kinds, cell


def null_isolated():
    """One atom of the unknown type out of reach of all others, and one in the middle of them."""
    coord, kinds, cell = half_empty()
    kinds = np.append(kinds, NULL)
    kinds[0] = NULL
    return np.vstack([coord, [16.0, 3.0, 3.0]]), kinds, cell


def null_rank():
    """Of two ranks along x, the right one owns atoms of the unknown type only."""
    coord, kinds, cell = bulk()
    return coord, np.where(coord[:, 0] > 4.0, NULL, kinds), cell


SYSTEMS = {
    system.__name__: system
    for system in (
        bulk,
        tilted,
        images,
        cluster,
        slab,
        half_empty,
        mostly_empty,
        null_mixed,
        null_isolated,
        null_rank,
    )
}

# --- cases -------------------------------------------------------------------------------------------------------

# Lists are rebuilt every fourth step, results written every second: steps 2 and 6 use a cached list.
REBUILDS = "neigh_modify every 4 delay 0 check no"
HEAT = "velocity all create 3000 71 mom yes rot no"
DRIFT = f"{HEAT}\nvelocity all set 100 0 0 sum yes"
NVE = f"{HEAT}\nfix move all nve\nrun 8"


@dataclass(frozen=True)
class Case:
    """One LAMMPS run, compared with one rank and with Python."""

    system: str
    ranks: int = 2
    grid: str = "* * *"
    model: str = "two_layers"
    boundary: str = "ppp"
    setup: str = ""  # before the atoms are read
    pair_style: str = "deepmd {model}"
    pair_coeff: str = "* * {types}"
    dynamics: str = NVE
    periods: int = 2  # neighbour lists built after the first one
    crossing: tuple[int, ...] = ()  # an atom of one of these types changes its owner on the way
    empty: int = 0  # ranks that own no atom, at the beginning
    every: int = 2  # steps between results
    atomic: bool = True  # per-atom energies and virials are asked for
    overlay: bool = False  # the pair style adds OVERLAY
    notices: bool = True  # results change without the exchange
    optimised: bool = False  # by TorchScript, as for users; most of the time of a `.pth`
    values: tuple[float, ...] | None = None  # quantities of the frame


OVERLAY = {"epsilon": 0.05, "sigma": 1.0, "cutoff": 6.0}
CASES = {
    "1 rank": Case("tilted", 1, optimised=True),
    "1 rank, atom_modify map": Case("tilted", 1, setup="atom_modify map yes", notices=False),
    "2 ranks": Case("tilted", 2, "2 1 1", crossing=(0, 1), optimised=True),
    "2 ranks, atom_modify map": Case("tilted", 2, "2 1 1", setup="atom_modify map yes", notices=False),
    "4x1x1": Case("bulk", 4, "4 1 1", crossing=(0, 1)),
    "2x2x1": Case("bulk", 4, "2 2 1", crossing=(0, 1)),
    "2x2x2": Case("tilted", 8, "2 2 2", crossing=(0, 1)),
    "three layers": Case("tilted", 2, "1 2 1", model="three_layers"),
    "one layer": Case("tilted", 2, "1 1 2", model="one_layer", notices=False),
    "one layer, atom_modify map": Case(
        "tilted", 1, model="one_layer", setup="atom_modify map yes", notices=False
    ),
    "attentive": Case("tilted", 2, "2 1 1", model="attentive_layers", crossing=(0, 1)),
    "non-linear": Case("half_empty", 2, "2 1 1", empty=1, model="non_linear", notices=False, optimised=True),
    "non-linear, 2x2x1": Case("bulk", 4, "2 2 1", model="non_linear", crossing=(0, 1), notices=False),
    "float32": Case("tilted", 2, "2 1 1", model="float32", optimised=True),
    "MM types": Case("tilted", 2, "2 1 1", model="qm_mm", crossing=(0, 1)),
    "images": Case("images", 1),
    "images, 2 ranks": Case("images", 2, "2 1 1"),
    "images, 2x2x2": Case("images", 8, "2 2 2", empty=5, notices=False),
    "rank without atoms": Case("half_empty", 2, "2 1 1", empty=1),
    "rank without atoms or ghosts": Case("mostly_empty", 3, "3 1 1", empty=2),
    "atoms drift into an empty rank": Case(
        "mostly_empty",
        3,
        "3 1 1",
        dynamics=f"{DRIFT}\nfix move all nve\nrun 24",
        periods=6,
        crossing=(0, 1),
        empty=2,
    ),
    "NULL atoms astride boundaries": Case("null_mixed", 4, "2 2 1"),
    "NULL atoms isolated": Case("null_isolated", 2, "2 1 1"),
    "NULL atoms fill a rank": Case("null_rank", 2, "2 1 1"),
    "NULL atoms cross boundaries": Case(
        "null_mixed",
        2,
        "2 1 1",
        dynamics=f"{HEAT}\ngroup null type 3\nvelocity null set 120 40 0\nfix move all nve\nrun 12",
        periods=3,
        crossing=(NULL,),
    ),
    "free": Case("cluster", 2, "2 1 1", boundary="fff"),
    "shrink-wrapped": Case("cluster", 2, "1 2 1", boundary="sss"),
    "mixed": Case("slab", 2, "1 1 2", boundary="ppf"),
    "NPT": Case(
        "tilted", 2, "2 1 1", dynamics=f"{HEAT}\nfix move all npt temp 3000 3000 0.1 tri 0 0 0.2\nrun 8"
    ),
    # LAMMPS then rebuilds when atoms have moved by half the skin.
    "minimize": Case("tilted", 2, "2 1 1", dynamics="neighbor 0.5 bin\nminimize 0 1e-6 12 24", every=1),
    "balance": Case("slab", 3, "1 1 3", dynamics=f"balance 1.0 shift z 10 1.05\n{NVE}"),
    "fix balance": Case(
        "half_empty",
        2,
        "2 1 1",
        dynamics=f"fix even all balance 4 1.0 shift x 10 1.05\n{NVE}",
        crossing=(0, 1),
    ),
    # More layers exchange features, which DeePMD-kit's pair style cannot do over tiled lists.
    "one layer, comm_style tiled, balance rcb": Case(
        "slab",
        3,
        model="one_layer",
        setup="comm_style tiled",
        dynamics=f"balance 1.0 rcb\n{NVE}",
        notices=False,
    ),
    "hybrid/overlay": Case(
        "tilted",
        2,
        "2 1 1",
        pair_style="hybrid/overlay deepmd {model} lj/cut {cutoff}",
        pair_coeff="* * deepmd {types}\npair_coeff * * lj/cut {epsilon} {sigma}",
        overlay=True,
    ),
    "charge and spin": Case(
        "tilted",
        2,
        "2 1 1",
        model="charged",
        pair_style="deepmd {model} fparam -1 2 0.7",
        crossing=(0, 1),
        values=(-1.0, 2.0, 0.7),
    ),
    "model deviation": Case(
        "tilted",
        2,
        "2 1 1",
        pair_style="deepmd {model} {second} {third} out_freq 4 out_file deviation.txt atomic",
        notices=False,
    ),
}
TWO = replace(CASES["2 ranks"], notices=False, optimised=False)
# Of tests of their own.
FURTHER = {
    "no atomic results": replace(TWO, atomic=False),
    "shifted": replace(TWO, dynamics="run 0\ndisplace_atoms all move 1.3 2.9 -0.7 units box\nrun 1", every=1),
    "both kinds of files": replace(
        TWO, pair_style="deepmd {model} {other} out_freq 2 out_file deviation.txt"
    ),
}

TEMPLATE = """\
units metal
atom_style atomic
boundary {boundary}
{setup}
processors {grid}
read_data data.lmp
pair_style {pair_style}
pair_coeff {pair_coeff}
neighbor 1.5 bin
{rebuilds}
timestep 0.001
compute e all pe/atom
compute s all centroid/stress/atom NULL pair
compute press all pressure NULL pair
thermo_style custom step pe vol nbuild c_press[*]
thermo_modify format float %.17g line one
thermo {every}
dump out all custom {every} dump.txt id type proc x y z fx fy fz {atomic}
dump_modify out sort id format float %.17g
{dynamics}
"""
# The last configuration once more, with the exchange taken out. Without "none" the host keeps the first model.
BLIND = """\
undump out
pair_style none
pair_style {pair_style}
pair_coeff {pair_coeff}
dump blind all custom 1 blind.txt id type proc x y z fx fy fz c_e c_s[*]
dump_modify blind sort id format float %.17g
run 0
"""


def input_script(case, models):
    """The input of a case, and after it the same pair style without the exchange."""
    null = bool(np.any(SYSTEMS[case.system]()[1] == NULL))

    def filled(template, name):
        types = " ".join(MODELS[case.model].get("type_map", TINY["type_map"])) + " NULL" * null
        words = {"model": models[name], "types": types, **OVERLAY}
        if "{second}" in case.pair_style:
            words.update({word: models[name] for word, name in DEVIATING.items()})
        if "{other}" in case.pair_style:
            words["other"] = models.of_the_other_kind()[name]
        return template.format(
            boundary=" ".join(case.boundary),
            setup=case.setup,
            grid=case.grid,
            pair_style=case.pair_style.format(**words),
            pair_coeff=case.pair_coeff.format(**words),
            rebuilds=REBUILDS,
            every=case.every,
            atomic="c_e c_s[*]" if case.atomic else "",
            dynamics=case.dynamics,
        )

    script = filled(TEMPLATE, case.model)
    return script + filled(BLIND, f"blind_{case.model}") if case.notices else script


@dataclass
class Result:
    """Frames of a case, the last one once more as the model without exchange saw it, and the process."""

    frames: list[Frame]
    blind: Frame | None
    run: Run


def prepare(case, models, folder):
    """The input of a case, and beside it the atoms in its folder."""
    coord, kinds, cell = SYSTEMS[case.system]()
    folder.mkdir(parents=True)
    write_data(folder / "data.lmp", coord, kinds, cell, ntypes=int(max(kinds.max(), 1)) + 1)
    return input_script(case, models)


def collect(case, run):
    """What a finished run left."""
    blind = read_frames(run, "blind.txt", rerun=True)[-1] if case.notices else None
    return Result(read_frames(run), blind, run)


def simulate(case, models, folder):
    """Run a case in a folder."""
    script = prepare(case, models, folder)
    return collect(case, run_lammps(folder, script, case.ranks, optimised=case.optimised).check())


MAP = "atom_modify map yes"


def on_one_rank(case, kind):
    """The same case on one rank, without a map unless the file needs one; equal for cases that differ in these only."""
    setup = case.setup.replace(MAP, "").strip()
    if kind == ".pt2":
        setup = f"{setup}\n{MAP}"
    plain = {"notices": False, "optimised": False}
    return replace(case, ranks=1, grid="* * *", setup=setup, crossing=(), empty=0, **plain)


def adapted(case, kind):
    """What differs for a kind of file: a ``.pt2`` needs an atom map on one rank, and each one takes long to compile."""
    if kind != ".pt2":
        return case
    if case.ranks == 1 and MAP not in case.setup:
        case = replace(case, setup=f"{case.setup}\n{MAP}")
    # On one rank it has no exchange that could be taken out.
    notices = case.notices and case.model == "two_layers" and case.ranks > 1
    return replace(case, notices=notices, optimised=False)


# A rank without atoms and ghosts is refused by the host, with a `.pt2`.
HOST_REFUSES = {".pt2": ("rank without atoms or ghosts", "atoms drift into an empty rank")}


def in_python(case, models, frame):
    """The frame evaluated in Python, with the pair potential that the case adds."""
    result = python_frame(models[case.model], frame, case.boundary, values=case.values)
    return add_lennard_jones(result, **OVERLAY) if case.overlay else result


def add_lennard_jones(frame, epsilon, sigma, cutoff):
    """Add 4ε((σ/r)¹² − (σ/r)⁶), half to each atom of a pair, to a periodic frame."""
    center, neighbor, vector = neighbour_list(
        "ijD", positions=frame.coord, cell=frame.cell, pbc=[True] * 3, cutoff=cutoff
    )
    distance = np.linalg.norm(vector, axis=1)
    power = (sigma / distance) ** 6
    energy = 2.0 * epsilon * (power**2 - power)
    gradient = (2.0 * epsilon * (-12.0 * power**2 + 6.0 * power) / distance**2)[:, None] * vector
    virial = -(gradient[:, :, None] * vector[:, None, :]).reshape(-1, 9)
    total = replace(
        frame,
        energy=frame.energy + energy.sum(),
        virial=frame.virial + virial.sum(axis=0)[PRESSURE_ORDER],
        atom_energy=frame.atom_energy.copy(),
        force=frame.force.copy(),
        atom_virial=frame.atom_virial.copy(),
    )
    np.add.at(total.atom_energy, center, energy)
    np.add.at(total.force, center, gradient)
    np.add.at(total.force, neighbor, -gradient)
    np.add.at(total.atom_virial, neighbor, virial)
    return total
