from __future__ import annotations

import pytest
from tiny_images import halves

from lightly_prg.data import Splits
from lightly_prg.recipe import Recipe, parse_recipe

TINY = """
name: tiny
data: {name: digits}
method:
  name: prg
  backbone:
    {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: [], middle_attention: false, dropout: 0.1}
  ode: {steps: 2}
  feature: {source: block, block: middle, tau: 0.3}
  augment: {horizontal_flip: true, crop_padding: 1}
train: {epochs: 3, batch_size: 8, lr: 1.0e-2, warmup_epochs: 1, ema_decay: 0.9, precision: 32}
eval: {split: test, few_shot: {labels: 2, draws: 2}}
"""


@pytest.fixture
def tiny_recipe() -> Recipe:
    return parse_recipe(TINY)


@pytest.fixture
def tiny_splits() -> Splits:
    return halves(8, num_train=44, class_names=("up", "down"))
