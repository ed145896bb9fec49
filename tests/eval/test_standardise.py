from __future__ import annotations

import numpy as np
import pytest
import torch

from lightly_prg.eval import standardise
from lightly_prg.eval.standardise import Standardiser

CPU = torch.device("cpu")


@pytest.mark.parametrize("chunk", [1 << 23, 12])
def test_features__have_mean_zero_and_variance_one(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standardise, "_CHUNK_ELEMENTS", chunk)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(50, 4)) * [1, 1e-3, 100, 1] + [0, 5, -3, 1e3]
    parts = np.split(features.astype(np.float32), [13])
    standardiser = Standardiser.of(parts)
    result = standardiser(parts, dtype=torch.float64, device=CPU)
    assert result.shape == (50, 4)
    np.testing.assert_allclose(result.mean(dim=0), 0, atol=1e-9)
    np.testing.assert_allclose(result.square().mean(dim=0), 1, atol=1e-9)


def test_constant_features__become_zero() -> None:
    train = np.full((1000, 3), [0.1, 0.0, 3e7], np.float32)
    standardiser = Standardiser.of([train])
    assert standardiser([train], dtype=torch.float32, device=CPU).abs().max() == 0
    # In other images, too, nothing was learned about them.
    other = np.ones((2, 3), np.float32)
    assert standardiser([other], dtype=torch.float32, device=CPU).abs().max() == 0


def test_statistics__are_those_of_what_was_fitted() -> None:
    standardiser = Standardiser.of([np.array([[1], [3]], np.float32)])
    result = standardiser([np.array([[4]], np.float32)], dtype=torch.float32, device=CPU)
    assert result.item() == 2.0
    assert result.dtype == torch.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite__are_told(bad: float) -> None:
    fine = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    broken = fine.copy()
    broken[7, 1] = bad
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        Standardiser.of([fine, broken])
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        Standardiser.of([fine])([broken], dtype=torch.float32, device=torch.device("cpu"))
