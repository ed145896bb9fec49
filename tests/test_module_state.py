from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lightly_prg.module_state import state_to_save


def test_tied_weights__are_saved_under_both_names(tmp_path: Path) -> None:
    def network() -> nn.Sequential:
        tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        tied[1].weight = tied[0].weight
        return tied

    first, second = network(), network()
    save_file(state_to_save(first), tmp_path / "weights.safetensors")
    second.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert second[1].weight is second[0].weight
    x = torch.rand(2, 3)
    assert torch.equal(first(x), second(x))
