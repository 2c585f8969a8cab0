"""Covariance, calibration and draws against what statistics says about them."""

import numpy as np
import pytest

from deepmd_gnn.tools.error_bars import ErrorBars, rms_ratio, spearman
from deepmd_gnn.tools.rigidity import Covariance, calibrated, drawn_members, posterior_factor


def test_covariance_is_a_sum_over_frames():
    features = np.random.default_rng(0).normal(size=(7, 3))
    covariance = Covariance(3)
    covariance.add(features[:4], 5)
    covariance.add(features[4:], 2)
    np.testing.assert_allclose(covariance.matrix, features.T @ features)
    assert (covariance.frames, covariance.atoms) == (7, 26)
    with pytest.raises(ValueError, match="not finite"):
        covariance.add(np.array([[np.nan, 0.0, 0.0]]), 1)


def test_factor_is_the_root_of_the_inverse():
    rng = np.random.default_rng(1)
    features, others = rng.normal(size=(40, 5)), rng.normal(size=(20, 5))
    covariance = features.T @ features
    errors = rng.normal(size=20)
    found = calibrated(covariance, others, errors, ridge=1e-3)
    assert found.ridge == pytest.approx(1e-3 * np.linalg.eigvalsh(covariance)[-1])
    inverse = np.linalg.inv(covariance + found.ridge * np.eye(5))
    variance = np.einsum("ni,ij,nj->n", others, inverse, others)
    assert found.alpha == pytest.approx(np.sqrt(np.mean(errors**2 / variance)))
    factor = posterior_factor(covariance, found)
    np.testing.assert_allclose(factor.T @ factor, found.alpha**2 * inverse, rtol=1e-10)
    assert rms_ratio(found.alpha * np.sqrt(variance), errors) == pytest.approx(1.0)
    members = drawn_members(factor, 200_000, seed=2)
    np.testing.assert_allclose(members.T @ members / 200_000, factor.T @ factor, atol=2e-2 * found.alpha**2)


def test_errors_of_a_linear_model_are_calibrated():
    """A least-squares fit of few noisy data: its errors elsewhere have the deviations that are predicted, and far away larger ones."""
    rng = np.random.default_rng(3)
    weights = rng.normal(size=6)
    features = rng.normal(size=(12, 6))
    fitted = np.linalg.lstsq(features, features @ weights + rng.normal(size=12), rcond=None)[0]
    valid, test = rng.normal(size=(300, 6)), 20.0 * rng.normal(size=(300, 6))
    covariance = features.T @ features
    factor = posterior_factor(covariance, calibrated(covariance, valid, valid @ (weights - fitted)))
    near, far = (np.linalg.norm(one @ factor.T, axis=1) for one in (valid, test))
    assert far.mean() > 10.0 * near.mean()
    assert 0.7 < rms_ratio(far, test @ (weights - fitted)) < 1.4


def test_what_cannot_be_calibrated():
    with pytest.raises(ValueError, match="cannot be calibrated: all errors"):
        calibrated(np.eye(2), np.ones((3, 2)), np.zeros(3))


def test_error_bars():
    bars = ErrorBars()
    assert bars.text() == ""
    for deviation, error in ((0.1, -0.1), (0.2, 0.2), (0.4, None), (0.3, 0.3)):
        bars.add(deviation, error)
    assert bars.to_dict() == {"mean": 0.25, "count": 4, "rms_ratio": pytest.approx(1.0), "spearman": pytest.approx(1.0)}  # fmt: skip
    assert "250 meV/atom, errors are 1.00 of it" in bars.text()
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(0.0)
    assert spearman(np.ones(3), np.arange(3.0)) == 0.0


def test_equal_members_have_no_opinion():
    """Of a committee whose members agree to the bit nothing can be said."""
    bars = ErrorBars()
    for error in (0.1, 0.2, 0.3):
        bars.add(0.0, error)
    assert bars.to_dict() == {"mean": 0.0, "count": 3}


def test_the_smallest_likely_regularisation():
    """None where it makes no difference; some where validation has directions in which the training has nothing."""
    rng = np.random.default_rng(4)
    covariance = np.diag([1.0, 0.5, 0.3])
    known = calibrated(covariance, rng.normal(size=(50, 3)), rng.normal(size=50))
    assert known.ridge == pytest.approx(1e-12)
    covariance = np.diag([1.0, 0.5, 0.0])
    others = rng.normal(size=(50, 3)) * [1.0, 1.0, 1e-4] * rng.choice([1.0, 100.0], size=(50, 1))
    found = calibrated(covariance, others, rng.normal(size=50) * np.linalg.norm(others[:, :2], axis=1))
    assert found.ridge > 1e-9
