"""Numbers that were wrong in a corner: each against what is known of it in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightly_prg import FeatureSpec, OdeSpec, PRGEncoder, VariancePreservingPath, encode
from lightly_prg.diagnostics import sample
from lightly_prg.eval import Embeddings, evaluate_retrieval
from lightly_prg.features.cells import Row
from lightly_prg.features.grid import GridEncoder
from lightly_prg.flow import LinearPath, PathRange
from lightly_prg.flow.scheduler_path import SchedulerPath
from lightly_prg.measurements import bits_per_dim, round_trip_curve
from lightly_prg.models import LoRA, velocity_from
from lightly_prg.models.lora import LowRankUpdate

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Predictor(nn.Module):
    """Predicts noise in a way that depends on the state: a network that is no closed form."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(1, 3, 3, padding=1)
        self.out = nn.Conv2d(3, 1, 3, padding=1)
        self.calls = 0

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        self.calls += 1
        value: Tensor = x + 0.3 * self.out(torch.tanh(self.body(x)))
        return value


class TestScan:
    def test_ddim_of_predicted_noise__is_that_of_the_encoder(self) -> None:
        velocity = velocity_from(Predictor(), "noise", VariancePreservingPath())
        feature = FeatureSpec(source="denoised", tau=0.8, pool="flatten")
        encoder = PRGEncoder(velocity, ode=OdeSpec(solver="ddim", steps=4), feature=feature, input_shape=(1, 8, 8))
        grid = GridEncoder(encoder, [Row("denoised", pool="flatten")], taus=(0.8,), steps=4)
        with torch.no_grad():
            torch.testing.assert_close(grid(IMAGES), encoder(IMAGES))

    def test_evaluations_of_an_adapted_network__are_those_that_ran(self) -> None:
        module = Predictor()
        encoder = PRGEncoder(velocity_from(module, "velocity"), ode=OdeSpec(steps=2), input_shape=(1, 8, 8))
        grid = GridEncoder(encoder, [Row("block", "body", "mean"), Row("velocity", pool="flatten")], taus=(0.4, 0.8))
        before = module.calls
        with torch.no_grad():
            grid(IMAGES)
        calls = module.calls - before
        assert grid.nfe == calls


class TestNoiseEnd:
    """A denoiser of N(0, 1/4) up to the noise of sigma = 3 / 4 on the linear path, where codes have the std 0.76."""

    def encoder(self) -> PRGEncoder:
        path = PathRange(LinearPath(), 0.0, 0.75)

        class Exact(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.path = path

            def forward(self, tau: Tensor, x: Tensor) -> Tensor:
                variance = (1 - tau) ** 2 / 4 + tau**2
                return x * (tau - (1 - tau) / 4) / variance

        return PRGEncoder(Exact(), input_shape=(1, 8, 8), mean=0.0, std=1.0)

    def test_samples__start_from_noise_as_strong_as_that_of_the_path(self) -> None:
        drawn = sample(self.encoder(), 200, steps=64, generator=torch.Generator().manual_seed(0), clip=False)
        # What is left of the data in the states there is missing: sqrt(0.75^2 / (0.75^2 + 0.25^2 / 4)).
        assert float(drawn.std()) == pytest.approx(0.5 * 0.75 / math.sqrt(0.75**2 + 0.25**2 / 4), rel=0.02)

    def test_likelihood__is_that_of_the_same_noise(self) -> None:
        images = torch.full((4, 1, 8, 8), 128, dtype=torch.uint8)
        measured = bits_per_dim(self.encoder(), images, steps=24, probes=1, generator=torch.Generator().manual_seed(0))
        # The model's own density, N(0, s^2) with the std of its samples, at x = 128 / 255 of images in [0, 1].
        std = 0.5 * 0.75 / math.sqrt(0.75**2 + 0.25**2 / 4)
        nats = 0.5 * math.log(2 * math.pi * std**2) + (128 / 255) ** 2 / (2 * std**2)
        assert measured.mean == pytest.approx(nats / math.log(2) + math.log2(255), abs=0.01)

    def test_latents__are_not_clipped(self) -> None:
        encoder = PRGEncoder(lambda tau, x: 0 * x, input_shape=(4, 8, 8), mean=0.0, std=1.0)
        drawn = sample(encoder, 100, steps=2, generator=torch.Generator().manual_seed(0), clip=False)
        assert float(drawn.std()) == pytest.approx(1.0, rel=0.02)
        assert sample(encoder, 2, steps=2).min() >= 0.0


class TestTables:
    def test_levels_near_zero__have_finite_slopes(self) -> None:
        levels = tuple(float(value) for value in np.exp(-np.linspace(0.1, 41.0, 100)))
        path = SchedulerPath(levels)
        tau = torch.linspace(0, 1, 500, dtype=torch.float64)
        assert path.sigma_prime(tau).isfinite().all()
        assert path.alpha_prime(tau).isfinite().all()

    @pytest.mark.parametrize(
        "name", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"]
    )
    def test_zero_terminal_snr__of_every_scheduler(self, name: str) -> None:
        diffusers = pytest.importorskip("diffusers")
        from lightly_prg.models.diffusers_unet import _conventions

        scheduler = getattr(diffusers, name)(rescale_betas_zero_snr=True, prediction_type="v_prediction")
        _, path = _conventions(scheduler)
        assert path.alphas_cumprod[-1] == 0.0


def test_image_predictions__are_not_rounded_by_autocast() -> None:
    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1, bias=False)
            nn.init.ones_(self.layer.weight)

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            keep = (1 - time) / 4 / ((1 - time) ** 2 / 4 + time**2)
            value: Tensor = self.layer(x) * keep.view(-1, 1, 1, 1)
            return value

    velocity = velocity_from(Denoiser(), "denoised")
    x = 0.5 * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = encode(velocity, x, tau_start=1e-3, tau_end=0.5, steps=4, solver="heun2")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = encode(velocity, x, tau_start=1e-3, tau_end=0.5, steps=4, solver="heun2")
    torch.testing.assert_close(mixed, exact)


class TestRetrieval:
    @pytest.mark.parametrize(("classes", "each"), [(10, 10), (50, 2)])
    def test_chance__is_what_random_features_reach(self, classes: int, each: int) -> None:
        draws = np.random.default_rng(0)
        labels = np.repeat(np.arange(classes), each)
        found = [
            evaluate_retrieval(
                Embeddings.of(draws.normal(size=(len(labels), 8)), labels),
                Embeddings.of(draws.normal(size=(400, 8)), draws.integers(0, classes, 400)),
            )
            for _ in range(5)
        ]
        reached = np.mean([one.mean_average_precision for one in found])
        assert found[0].chance == pytest.approx(reached, rel=0.06)

    def test_one_relevant_image__has_the_mean_of_the_inverse_ranks(self) -> None:
        bank = Embeddings.of(np.eye(4), [0, 1, 2, 3])
        assert evaluate_retrieval(bank, bank).chance == pytest.approx(100 * (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)

    def test_collapsed_features__rank_by_chance_also_where_the_bank_is_sorted(self) -> None:
        labels = np.repeat(np.arange(10), 40)
        result = evaluate_retrieval(
            Embeddings.of(np.ones((400, 2)), labels), Embeddings.of(np.ones((50, 2)), labels[::8])
        )
        assert result.mean_average_precision == pytest.approx(result.chance, abs=1.5)


def test_low_rank_update__of_a_narrow_layer_is_scaled_by_the_rank_that_it_has() -> None:
    network = nn.Sequential(nn.Conv2d(16, 2, 3))
    LoRA(rank=8, alpha=16.0).add(network)
    (update,) = (module for module in network.modules() if isinstance(module, LowRankUpdate))
    assert update.inward.shape[0] == 2
    assert update.scale == 8.0


def test_round_trips_of_reversible_solvers__cost_what_the_others_cost() -> None:
    encoder = PRGEncoder(lambda tau, x: -0.1 * x, input_shape=(1, 8, 8))
    points = round_trip_curve(encoder, IMAGES, "reversible_midpoint", budgets=(8, 16))
    assert [point.nfe for point in points] == [8, 16]
