from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lightly_prg.models import EMA


class _Weights(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.full((3,), value))
        self.second = nn.Parameter(torch.full((2, 2), 2 * value))
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("seen", torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(x) * self.first


def _set(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        module.first.fill_(value)
        module.second.fill_(2 * value)
        module.seen.fill_(value)


def test_average_by_hand() -> None:
    source = _Weights(1.0)
    ema = EMA(source, decay=0.25)
    # Decays: min(0.25, 1/10), min(0.25, 2/11), min(0.25, 3/12), then 0.25 for ever.
    expected = 1.0
    for value, decay in ((5.0, 1 / 10), (-3.0, 2 / 11), (2.0, 0.25), (7.0, 0.25), (0.0, 0.25)):
        _set(source, value)
        ema.update(source)
        expected = decay * expected + (1 - decay) * value
        torch.testing.assert_close(ema.module.first, torch.full((3,), expected))
        torch.testing.assert_close(ema.module.second, torch.full((2, 2), 2 * expected))
        assert ema.module.seen == value
    assert ema.updates == 5
    assert ema.updates.dtype == torch.int64


def test_decay_zero_copies() -> None:
    source = _Weights(0.1)
    ema = EMA(source, decay=0.0)
    for value in (0.3, -1e8, 1e-8):
        _set(source, value)
        ema.update(source)
        assert torch.equal(ema.module.first, source.first)


def test_average_is_a_separate_frozen_copy() -> None:
    source = _Weights(1.0)
    ema = EMA(source, decay=0.9)
    _set(source, 4.0)
    assert torch.equal(ema.module.first, torch.ones(3))
    assert all(parameter.requires_grad for parameter in source.parameters())
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    x = torch.ones(3)
    nn.ModuleDict({"ema": ema}).train()
    assert source.training
    assert torch.equal(ema(x), x)  # no dropout, whatever the mode around it


@pytest.mark.parametrize("inside", [False, True])
def test_restored_average_continues_identically(inside: bool) -> None:
    def step(ema: EMA, source: nn.Module, value: float) -> None:
        _set(source, value)
        ema.update(source)

    source = _Weights(1.0)
    ema = EMA(source, decay=0.999)
    for value in (2.0, 3.0, 5.0):
        step(ema, source, value)
    state = copy.deepcopy((nn.ModuleDict({"ema": ema}) if inside else ema).state_dict())
    restored = EMA(_Weights(9.0), decay=0.999)
    (nn.ModuleDict({"ema": restored}) if inside else restored).load_state_dict(state)
    clone = copy.deepcopy(ema)
    for value in (-1.0, 4.0):
        for average in (ema, restored, clone):
            step(average, source, value)
    for average in (restored, clone):
        assert set(average.state_dict()) == set(ema.state_dict())
        for name, value in ema.state_dict().items():
            assert torch.equal(average.state_dict()[name], value), name


def test_other_structure_is_refused() -> None:
    ema = EMA(nn.Linear(2, 2), decay=0.9)
    with pytest.raises(ValueError, match="1 parameters and 0 buffers, the average 2 and 0"):
        ema.update(nn.Linear(2, 2, bias=False))


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        EMA(nn.Linear(1, 1), decay=decay)
