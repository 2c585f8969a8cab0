"""LAMMPS cases of one number of ranks one after the other in one process: to start it costs more than what a case computes.

A case that fails ends the process. Then all of them run once more, each in a process of its own, and only those fail that
fail there; if none does, it is the one at which the common process ended.
"""

import hashlib
import pickle
import shutil
import subprocess

from lammps_cases import adapted, collect, prepare, simulate
from lammps_runner import Run, run_lammps
from shared_files import once

CLEARED = """\
clear
shell cd {folder}
log log.lammps
"""


def place(folder, number):
    """Folder of a case."""
    return folder / f"case_{number}"


def together(cases, models, folder):
    """Run cases in one process.

    Parameters
    ----------
    cases : list of Case
        Of the same number of ranks, and all or none of them ``optimised``.
    models : ModelFiles
        Their files.
    folder : Path
        Where it runs, each case in a folder of its own.

    Returns
    -------
    list of Result or str
        In the order of the cases; what LAMMPS said where one failed.
    """
    folder.mkdir(parents=True)
    script = ""
    for number, case in enumerate(cases):
        script += CLEARED.format(folder=place(folder, number)) + prepare(case, models, place(folder, number))
    try:
        run = run_lammps(folder, script, cases[0].ranks, 600, cases[0].optimised)
    except subprocess.TimeoutExpired as error:
        run = Run(-1, str(error), folder)
    if run.returncode == 0:
        return [collect(case, Run(0, run.output, place(folder, number))) for number, case in enumerate(cases)]
    reached = sum((place(folder, number) / "log.lammps").exists() for number in range(len(cases)))
    return apart(cases, models, folder, run, reached - 1)


def apart(cases, models, folder, common, ended):
    """Results of each case in a process of its own, after a common one has ended at the case with a number."""
    results = []
    for number, case in enumerate(cases):
        shutil.rmtree(place(folder, number))
        try:
            results.append(simulate(case, models, place(folder, number)))
        except (AssertionError, subprocess.TimeoutExpired) as error:
            results.append(str(error))
    if not any(isinstance(result, str) for result in results):
        results[max(ended, 0)] = f"Fails after the cases before it only: {common.output[-4000:]}"
    return results


class Simulations:
    """Results of cases: those that are wanted are run together when the first of them is asked for.

    Parameters
    ----------
    wanted : list of tuple of Case and str
        With the kinds of their files; others are run alone.
    folder : Path
        Where all run; processes share what is there.
    model_files : callable
        Kind of file → files.
    """

    def __init__(self, wanted, folder, model_files):
        self.folder, self.model_files = folder, model_files
        self.groups, self.known = {}, {}
        for case, kind in wanted:
            group = self.groups.setdefault(self.group_of(case, kind), [])
            if adapted(case, kind) not in group:
                group.append(adapted(case, kind))

    def group_of(self, case, kind):
        case = adapted(case, kind)
        return kind, case.ranks, case.optimised

    def __call__(self, case, kind):
        """What a case gave, in whichever process it ran."""
        group, case = self.group_of(case, kind), adapted(case, kind)
        cases = self.groups.get(group, [])
        result = self.of(cases if case in cases else [case], kind)[case]
        assert not isinstance(result, str), result
        return result

    def of(self, cases, kind):
        """Results by case."""
        name = hashlib.sha256(repr((cases, kind)).encode()).hexdigest()[:16]
        if name not in self.known:

            def make(unfinished):
                folder = self.folder / name
                shutil.rmtree(folder, ignore_errors=True)  # of a test that was interrupted
                unfinished.write_bytes(pickle.dumps(together(cases, self.model_files(kind), folder)))

            results = pickle.loads(once(self.folder / f"{name}.pickle", make).read_bytes())
            self.known[name] = dict(zip(cases, results, strict=True))
        return self.known[name]
