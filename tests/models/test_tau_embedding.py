from __future__ import annotations

import math

import pytest
import torch

from lightly_prg.models import TauEmbedding, sinusoidal_embedding


def test_embedding_by_hand() -> None:
    # Four channels: frequencies 1 and 1e4^(-1/2) = 0.01; cosines first.
    embedding = sinusoidal_embedding(torch.tensor([0.0, 0.5]), 4, tau_scale=100.0)
    expected = [
        [1.0, 1.0, 0.0, 0.0],
        [math.cos(50.0), math.cos(0.5), math.sin(50.0), math.sin(0.5)],
    ]
    torch.testing.assert_close(embedding, torch.tensor(expected))


def test_default_scale_tells_positions_apart_where_the_raw_tau_does_not() -> None:
    tau = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    nearby = torch.tensor([0.1, 0.2], dtype=torch.float64)
    scale = TauEmbedding(128, 8).tau_scale

    def moving_channels(tau_scale: float) -> int:
        return int((sinusoidal_embedding(tau, 128, tau_scale=tau_scale).std(0) > 0.1).sum())

    def cosine(tau_scale: float) -> float:
        first, second = sinusoidal_embedding(nearby, 128, tau_scale=tau_scale)
        return float(torch.cosine_similarity(first, second, dim=0))

    assert moving_channels(scale) >= 96
    assert cosine(scale) < 0.7
    assert moving_channels(1.0) <= 32
    assert cosine(1.0) > 0.99


def test_condition_follows_tau_alone() -> None:
    torch.manual_seed(0)
    embedding = TauEmbedding(16, 6)
    condition = embedding(torch.tensor([0.1, 0.2, 0.1]))
    assert condition.shape == (3, 6)
    torch.testing.assert_close(condition[0], condition[2])
    assert (condition[0] - condition[1]).abs().max() > 1e-2


def test_half_precision_weights_keep_tau_precise() -> None:
    torch.manual_seed(0)
    embedding = TauEmbedding(32, 16)
    tau = torch.tensor([0.901, 0.904])  # one and the same number in bfloat16
    expected = embedding(tau)
    condition = embedding.bfloat16()(tau)
    assert condition.dtype == torch.bfloat16
    assert (condition.float() - expected).abs().max() < 0.01
    assert (condition[0] - condition[1]).abs().max() > 0.02


def test_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="even number of channels, not 7"):
        TauEmbedding(7, 8)
