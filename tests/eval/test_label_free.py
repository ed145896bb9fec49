from __future__ import annotations

import numpy as np
import pytest

from lightly_prg.eval import spectrum
from lightly_prg.eval.label_free import alpha_req, closeness_to_one, rankme


def with_spectrum(singular: np.ndarray, rows: int, *, seed: int = 0) -> np.ndarray:
    """Centred features ``(rows, D)`` with exactly these singular values."""
    generator = np.random.default_rng(seed)
    left = generator.normal(size=(rows, len(singular)))
    left, _ = np.linalg.qr(left - left.mean(axis=0))  # stays centred: its columns span the same
    right, _ = np.linalg.qr(generator.normal(size=(len(singular),) * 2))
    return np.asarray(left * singular @ right.T)


class TestRankMe:
    @pytest.mark.parametrize(("rows", "columns"), [(40, 7), (7, 7)])
    def test_isotropic__is_the_dimension(self, rows: int, columns: int) -> None:
        orthonormal, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(rows, columns)))
        assert rankme(3.0 * orthonormal) == pytest.approx(columns)
        assert rankme(3.0 * orthonormal.T) == pytest.approx(columns)  # wide: by the other matrix

    def test_many_normal_samples__come_close_to_the_dimension(self) -> None:
        features = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)
        assert rankme(features) == pytest.approx(16, abs=0.01)

    @pytest.mark.parametrize("shape", [(50, 6), (6, 50)])
    def test_rank_one__is_one(self, shape: tuple[int, int]) -> None:
        generator = np.random.default_rng(0)
        features = np.outer(generator.normal(size=shape[0]), generator.normal(size=shape[1]))
        assert rankme(features) == pytest.approx(1.0, abs=1e-6)

    def test_two_values__by_hand(self) -> None:
        # Shares 3/4 and 1/4.
        assert rankme(np.diag([3.0, 1.0])) == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))

    def test_all_zero__is_zero(self) -> None:
        assert rankme(np.zeros((5, 3))) == 0.0

    def test_mean__counts_as_a_direction(self) -> None:
        # Not centred, as in the paper: a constant embedding has rank 1.
        assert rankme(np.full((9, 4), 2.0)) == pytest.approx(1.0)


class TestAlphaReQ:
    @pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
    @pytest.mark.parametrize("wide", [False, True])
    def test_power_law__is_recovered(self, alpha: float, wide: bool) -> None:
        singular = np.arange(1, 61) ** (-alpha / 2)
        features = with_spectrum(singular, 200)
        if wide:  # more columns than rows, by an isometry that changes no singular value
            basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(300, 60)))
            features = features @ basis.T
        assert alpha_req(features + 5.0) == pytest.approx(alpha, abs=1e-6)  # the mean is no matter

    def test_ranks__choose_what_is_fitted(self) -> None:
        singular = np.concatenate([np.arange(1, 11) ** -1.0, 10**-0.5 * np.arange(11, 41) ** -0.5])  # exponents 2, 1
        features = with_spectrum(singular, 100)
        assert alpha_req(features, ranks=(1, 10)) == pytest.approx(2.0, abs=1e-6)
        assert alpha_req(features, ranks=(11, 40)) == pytest.approx(1.0, abs=1e-6)
        middle = alpha_req(features, ranks=(1, 40))
        assert middle is not None
        assert 1.0 < middle < 2.0

    def test_isotropic__is_zero(self) -> None:
        assert alpha_req(with_spectrum(np.ones(20), 50)) == pytest.approx(0.0, abs=1e-9)

    def test_too_few_directions__have_none(self) -> None:
        assert alpha_req(with_spectrum(np.array([3.0, 2.0, 1.0, 0.5]), 50)) is None  # ranks 3 and 4 alone
        assert alpha_req(np.ones((10, 8))) is None

    def test_rounding_of_float32__is_no_direction(self) -> None:
        features = with_spectrum(np.arange(1, 7) ** -1.0, 200).astype(np.float32)
        wide = features @ np.random.default_rng(1).normal(size=(6, 40)).astype(np.float32)  # 34 directions of rounding
        narrow, told = alpha_req(features, ranks=(1, 6)), alpha_req(wide, ranks=(7, 40))
        assert narrow == pytest.approx(2.0, abs=1e-5)
        assert told is None

    def test_closeness__is_highest_at_one(self) -> None:
        assert closeness_to_one(1.0) == 0.0
        assert closeness_to_one(0.75) == closeness_to_one(1.25) == -0.25
        assert closeness_to_one(None) is None


@pytest.mark.parametrize("shape", [(30, 11), (11, 30)])
@pytest.mark.parametrize("centre", [False, True])
def test_second_moment__is_that_of_all_features_whatever_the_chunks(
    shape: tuple[int, int], centre: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectrum, "_CHUNK_ELEMENTS", 40)
    features = np.random.default_rng(0).normal(size=shape) + 2.0
    moved = features - features.mean(axis=0) if centre else features
    expected = moved.T @ moved if shape[0] > shape[1] else moved @ moved.T
    np.testing.assert_allclose(spectrum.second_moment(features, centre=centre), expected, atol=1e-12)


def test_columns__may_be_a_view() -> None:
    features = np.random.default_rng(0).normal(size=(20, 12)).astype(np.float32)
    assert rankme(features[:, 3:8]) == rankme(features[:, 3:8].copy())


def test_bad_features__are_refused() -> None:
    with pytest.raises(FloatingPointError, match="NaN"):
        rankme(np.array([[1.0, np.nan]]))
    for shape in ((0, 3), (3, 0), (3,)):
        with pytest.raises(ValueError, match="Features"):
            rankme(np.zeros(shape))
