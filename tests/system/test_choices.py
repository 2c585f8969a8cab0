"""The benchmarks of uncertainty choose frames and bin errors as a calculation by hand says."""

import numpy as np
import pytest
from documented import ROOT


@pytest.fixture
def benchmark(monkeypatch):
    """A module of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load(name):
        return __import__(name)

    return load


def test_the_largest_deviations_are_chosen(benchmark):
    choose = benchmark("active_learning").choose
    deviations, left = np.array([0.1, 0.4, 0.2, 0.4, 0.3]), np.array([2, 3, 5, 8, 9])
    rng = np.random.default_rng(0)
    assert choose(deviations, left, 3, rng).tolist() == [3, 8, 9]
    chosen = choose(None, left, 4, rng)
    assert len(set(chosen)) == 4
    assert set(chosen) <= set(left)


def test_deviation_of_a_committee(benchmark, monkeypatch):
    """Of one atom (3, 0, 4) and minus it: each is 5 from the mean; the other atom's forces are equal."""
    active = benchmark("active_learning")
    force = np.array([[[3.0, 0.0, 4.0], [1.0, 1.0, 1.0]], [[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]]])
    other = force * np.array([[[-1.0], [1.0]], [[1.0], [-1.0]]])
    monkeypatch.setattr(active, "predictions", lambda model, frames, size: (None, model))
    assert active.committee_deviations([force, other], None) == pytest.approx([5.0, 2.0])


def test_points_of_the_calibration_plot(benchmark):
    """Two bins, smallest deviations first: RMS of 1, 1 and of 2, 4; errors follow their deviations."""
    found = benchmark("reliability").statistics(
        np.array([4.0, 1.0, 2.0, 1.0]), np.array([-6.0, 0.5, 2.0, -1.5]), 2
    )
    expected = [[1.0, np.sqrt((0.25 + 2.25) / 2)], [np.sqrt(10.0), np.sqrt(20.0)]]
    assert np.array(found["bins"]) == pytest.approx(np.array(expected))
    # Errors over deviations are 1.5, 0.5, 1, 1.5.
    assert found["rms_ratio"] == pytest.approx(np.sqrt(5.75 / 4))
    assert (found["within_1"], found["within_2"]) == (0.25, 1.0)


def test_mean_and_spread(benchmark):
    """Of 1 and 3: 2 ± √2."""
    active = benchmark("active_learning")
    rows = [{"way": "LLPR", "labels": 5, "force": value, "energy": 1.0, "hot": 2} for value in (1.0, 3.0)]
    assert active.statistics(rows, "LLPR", 5, "force") == pytest.approx((2.0, 2**0.5))
    assert active.table(rows, [5]).splitlines()[-1] == "| 5 | LLPR | 2.0 ± 1.4 | 1.0 ± 0.0 | 2 |"
