from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.eval.finetuning.heads import FeatureStandardiser, LinearHead, PRGHead


def features(rows: int = 32, dimension: int = 5) -> Tensor:
    return torch.randn(rows, dimension, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, dimension + 1)


def test_standardiser__is_batch_norm_in_training() -> None:
    x = features()
    expected = nn.BatchNorm1d(5, affine=False, eps=1e-12)(x)
    torch.testing.assert_close(FeatureStandardiser(5)(x), expected, atol=1e-3, rtol=1e-3)


def test_standardiser__knows_the_statistics_after_one_batch() -> None:
    standardise = FeatureStandardiser(5)
    trained = standardise(features())
    torch.testing.assert_close(standardise.eval()(features()), trained)


def test_standardiser__averages_ten_batches_and_then_forgets() -> None:
    standardise = FeatureStandardiser(1)
    for value in range(10):
        standardise(torch.full((2, 1), float(value)))
    assert standardise.mean.item() == pytest.approx(4.5)
    standardise(torch.full((2, 1), 104.5))
    assert standardise.mean.item() == pytest.approx(14.5)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_linear_head__does_not_see_the_scale(scale: float) -> None:
    head, other = LinearHead(5, 3), LinearHead(5, 3)
    other.load_state_dict(head.state_dict())
    for training in (True, False):
        head.train(training)
        other.train(training)
        torch.testing.assert_close(other(scale * features()), head(features()), atol=1e-6, rtol=1e-4)


def test_constant_feature__stays_finite_with_its_gradient() -> None:
    for x in (torch.zeros(4, 3), torch.cat([torch.zeros(4, 1), features(4, 2)], dim=1)):
        x.requires_grad_()
        output = LinearHead(3, 2)(x)
        output.sum().backward()
        assert output.isfinite().all()
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "cells", "width"),
    [
        ((3, 32, 32), (16, 16), 768),
        ((1, 28, 28), (14, 14), 196),
        ((3, 64, 64), (16, 16), 768),
        ((1, 1, 1), (1, 1), 1),
    ],
)
def test_prg_head__follows_the_size_of_the_image(
    shape: tuple[int, int, int], cells: tuple[int, int], width: int
) -> None:
    head = PRGHead(shape, 10)
    assert head.cells == cells
    assert head.norm.normalized_shape == (width,)
    assert head(torch.rand(2, shape[0] * shape[1] * shape[2])).shape == (2, 10)
    # LayerNorm, Linear with bias, Linear without.
    assert sum(p.numel() for p in head.parameters()) == 2 * width + width * (width + 1) + 10 * width


def test_prg_head__pools_neighbours() -> None:
    head = PRGHead((1, 4, 4), 4)
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, :2, 2:] = 8.0  # the upper right of four cells
    seen: list[Tensor] = []
    head.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    head(image.flatten(1))
    assert seen[0].tolist() == [[0.0, 8.0, 0.0, 0.0]]


def test_prg_head__refuses_what_is_no_image_state() -> None:
    with pytest.raises(UserError, match=r"\(3, 8, 8\) has 192 numbers; the embedding has 64"):
        PRGHead((3, 8, 8), 10)(torch.rand(2, 64))


def test_standardiser_of_a_frozen_encoder__averages_over_all_batches() -> None:
    batches = [torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)) + seed for seed in range(20)]
    standardise = FeatureStandardiser(3, momentum=0.0).train()
    for batch in batches:
        standardise(batch)
    torch.testing.assert_close(standardise.mean, torch.stack([batch.mean(0) for batch in batches]).mean(0))
    torch.testing.assert_close(
        standardise.variance, torch.stack([batch.var(0, correction=0) for batch in batches]).mean(0)
    )
