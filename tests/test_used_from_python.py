"""What researchers do with the library in scripts and notebooks, beyond what its commands do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader
from torchvision.datasets import VisionDataset

from lightly_prg import (
    PRG,
    DiT,
    FeatureSpec,
    FlowMatchingLoss,
    OdeSpec,
    PRGEncoder,
    PRGTransform,
    UNet,
    VariancePreservingPath,
    encode,
    wrap_dataset,
)
from lightly_prg.errors import UserError
from lightly_prg.eval import (
    Embeddings,
    embed,
    evaluate_knn,
    evaluate_linear,
    evaluate_robustness,
    finetune,
    fit_pca,
    frechet_distance,
)
from lightly_prg.eval.finetuning.heads import LinearHead
from lightly_prg.flow import couple
from lightly_prg.measurements import bits_per_dim, channel_curve, loss_by_tau, round_trip_curve
from lightly_prg.models import redraw_zero_weights, velocity_from
from lightly_prg.randomness import generator_for


class Plain(nn.Module):
    """A network of strangers, whose blocks are read by hooks."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Dropout(dropout))
        self.out = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        value: Tensor = self.out(self.body(x))
        return value


def unet(**options: Any) -> UNet:
    torch.manual_seed(0)
    network = UNet(image_size=8, in_channels=1, channels=8, multipliers=(1, 2), blocks=1, attention=(), **options)
    redraw_zero_weights(network, generator_for(0, "test"))
    return network


def training_step_of(model: PRG, batch: Any) -> None:
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    trainer.fit(model, DataLoader(batch, batch_size=len(batch)))


STATE = FeatureSpec(source="state", tau=1.0, pool="flatten")
IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BYTES = (IMAGES * 255).to(torch.uint8)


def image_set(levels: int = 8) -> Any:
    return wrap_dataset([(image, row % 2) for row, image in enumerate(BYTES.repeat(levels, 1, 1, 1))])


class TestCache:
    def test_functions__are_told_apart_by_what_they_compute(self, tmp_path: Path) -> None:
        images = image_set()

        def scaled(factor: float) -> PRGEncoder:
            return PRGEncoder(lambda tau, x: factor * x, feature=STATE, input_shape=(1, 8, 8))

        class Generator:
            def __init__(self, weight: float) -> None:
                self.net = nn.Linear(1, 1)
                nn.init.constant_(self.net.weight, weight)

            def velocity(self, tau: Tensor, x: Tensor) -> Tensor:
                return self.net.weight * x

        def of_a_method(weight: float) -> PRGEncoder:
            return PRGEncoder(Generator(weight).velocity, feature=STATE, input_shape=(1, 8, 8))

        for make in (scaled, of_a_method):
            for number in (0.0, 1.0, 2.0):
                kept = embed(make(number), images, cache_dir=tmp_path, device="cpu").features
                np.testing.assert_array_equal(kept, embed(make(number), images, device="cpu").features)
        assert len(list(tmp_path.glob("*.npy"))) == 6
        embed(scaled(2.0), images, cache_dir=tmp_path, device="cpu")  # found again
        assert len(list(tmp_path.glob("*.npy"))) == 6

    def test_functions_of_one_name__with_other_content(self, tmp_path: Path) -> None:
        images, found = image_set(), []
        for code in ("x", "2 * x", "weight * x"):
            names: dict[str, Any] = {"weight": torch.tensor(3.0), "__name__": "__main__"}
            exec(f"def velocity(tau, x): return {code}", names)
            encoder = PRGEncoder(names["velocity"], feature=STATE, input_shape=(1, 8, 8))
            found.append(float(embed(encoder, images, cache_dir=tmp_path, device="cpu").features[0, 0]))
        assert len(set(found)) == 3

    def test_large_sets_of_one_class__are_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Level(VisionDataset):
            def __init__(self, level: int) -> None:
                super().__init__("nowhere")
                self.level, self.targets = level, [0, 1] * 40

            def __len__(self) -> int:
                return 80

            def __getitem__(self, index: int) -> tuple[Tensor, int]:
                return torch.full((1, 4, 4), self.level, dtype=torch.uint8), self.targets[index]

        monkeypatch.setattr("lightly_prg.data.pixels.MEMORY_LIMIT", 0)
        first, again, other = (wrap_dataset(Level(level)) for level in (10, 10, 250))
        assert not first.in_memory
        assert first.fingerprint == again.fingerprint != other.fingerprint


class TestGradients:
    @pytest.mark.parametrize("mode", ["checkpoint", "adjoint", "reversible"])
    def test_weights_exchanged_for_the_forward_pass__are_refused_in_the_backward_pass(self, mode: str) -> None:
        network = unet()
        solver = "reversible_heun2" if mode == "reversible" else "euler"
        encoder = PRGEncoder(network, ode=OdeSpec(steps=2, solver=solver, gradient=mode), feature=STATE)  # type: ignore[arg-type]
        others = {name: (0.5 * value.detach()).requires_grad_() for name, value in encoder.named_parameters()}
        features = functional_call(encoder, others, (IMAGES,))
        with pytest.raises(RuntimeError, match="exchanged for another"):
            torch.autograd.grad(features.square().sum(), list(others.values()), allow_unused=True)

    def test_weights_exchanged__full_is_right(self) -> None:
        encoder = PRGEncoder(unet(), ode=OdeSpec(steps=2, gradient="full"), feature=STATE)
        others = {name: (0.5 * value.detach()).requires_grad_() for name, value in encoder.named_parameters()}
        found = torch.autograd.grad(
            functional_call(encoder, others, (IMAGES,)).square().sum(), list(others.values()), allow_unused=True
        )
        with torch.no_grad():
            for name, value in encoder.named_parameters():
                value.copy_(others[name])
        encoder(IMAGES).square().sum().backward()
        for gradient, (name, value) in zip(found, encoder.named_parameters(), strict=True):
            if value.grad is not None:
                torch.testing.assert_close(gradient, value.grad, msg=name)

    def test_weights_changed_in_place__are_refused(self) -> None:
        encoder = PRGEncoder(unet(), ode=OdeSpec(steps=2), feature=STATE)
        loss = encoder(IMAGES).square().sum()
        with torch.no_grad():
            next(encoder.parameters()).mul_(0.5)
        with pytest.raises(RuntimeError, match="changed in place"):
            loss.backward()

    def test_fine_tuning__works_where_gradients_are_off(self) -> None:
        images = image_set()
        encoder = PRGEncoder(unet(), ode=OdeSpec(steps=1), feature=STATE)
        with torch.no_grad():
            result, _ = finetune(
                encoder, images, images, validation=images, epochs=1, batch_size=8, learning_rates=1e-3, device="cpu"
            )  # type: ignore[arg-type]
        assert result.steps == 4


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: velocity_from(net, call=lambda m, t, x: m(t, x))])
def test_two_threads__read_their_own_images(wrap: Callable[[nn.Module], nn.Module]) -> None:
    velocity = wrap(Plain())
    encoder = PRGEncoder(velocity, feature=FeatureSpec(source="block", block="body", tau=0.1), input_shape=(1, 8, 8))
    encoder.eval()
    images = [IMAGES[:1], IMAGES[1:2]]
    with torch.no_grad():
        expected = [encoder(image) for image in images]
    failures: list[object] = []

    def read(number: int) -> None:
        try:
            with torch.no_grad():
                failures.extend(
                    number for _ in range(150) if not torch.equal(encoder(images[number]), expected[number])
                )
        except Exception as error:  # of any kind: a thread may end with none
            failures.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


class TestTransform:
    def test_overshoot__is_clipped(self) -> None:
        image = torch.full((3, 8, 8), 0.5)
        image[:, 0, :2] = torch.tensor([1.0005, -0.0005])
        (view,) = PRGTransform(input_size=8, hf_prob=0.0)(image)
        assert view[:, 0, 0].tolist() == [1.0] * 3
        assert view[:, 0, 1].tolist() == [-1.0] * 3

    @pytest.mark.parametrize("image", [255 * torch.rand(3, 8, 8), 2 * torch.rand(3, 8, 8) - 1])
    def test_another_range__is_refused(self, image: Tensor) -> None:
        with pytest.raises(ValueError, match=r"\[0, 1\] is needed"):
            PRGTransform(input_size=8)(image)

    def test_whole_numbers_of_other_types__are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"torch\.int64"):
            PRGTransform(input_size=8)(torch.zeros(3, 8, 8, dtype=torch.int64))

    def test_sixteen_bits(self) -> None:
        image = torch.tensor([0, 65535], dtype=torch.int32).to(torch.uint16).reshape(1, 1, 2).expand(3, 2, 2)
        (view,) = PRGTransform(input_size=2, hf_prob=0.0)(image)
        assert view[0, 0].tolist() == [-1.0, 1.0]


class TestMeasurements:
    def test_training_mode__changes_nothing_and_comes_back(self) -> None:
        network = Plain(dropout=0.5)
        encoder = PRGEncoder(network, feature=STATE, input_shape=(1, 8, 8))
        mean = network.body[1].running_mean.clone()  # type: ignore[operator, union-attr]

        def measured() -> list[float]:
            draws = torch.Generator().manual_seed(0)
            return [
                round_trip_curve(encoder, IMAGES, "euler", budgets=(4,))[0].rmse or 0.0,
                channel_curve(encoder, IMAGES, sigmas=(0.1,), steps=2, generator=draws).mse[0],
                loss_by_tau(network, 2 * IMAGES - 1, path=encoder.path, bins=2).overall,
                float(bits_per_dim(encoder, BYTES, steps=2, probes=1, generator=draws).mean),
            ]

        expected = measured()
        encoder.train()
        assert measured() == expected
        assert network.training
        assert torch.equal(network.body[1].running_mean, mean)  # type: ignore[arg-type, union-attr]

    def test_bytes__are_refused(self) -> None:
        encoder = PRGEncoder(unet())
        for measure in (
            lambda: round_trip_curve(encoder, BYTES, "euler"),
            lambda: channel_curve(encoder, BYTES),
            lambda: loss_by_tau(encoder.network, BYTES, path=encoder.path),
        ):
            with pytest.raises(ValueError, match=r"torch\.uint8"):
                measure()


class TestSeeds:
    def test_numbers_of_numpy__are_the_same_seed(self) -> None:
        plain = torch.rand(3, generator=generator_for(7, "noise"))
        for seed in (np.int64(7), np.int32(7), np.uint8(7)):
            assert torch.equal(torch.rand(3, generator=generator_for(seed, "noise")), plain)  # type: ignore[arg-type]

    @pytest.mark.parametrize("seed", [0.0, None])
    def test_what_is_no_whole_number__is_refused(self, seed: Any) -> None:
        with pytest.raises(TypeError):
            generator_for(seed)


class TestEncoder:
    def test_another_feature__is_counted_anew(self) -> None:
        encoder = PRGEncoder(unet(), ode=OdeSpec(steps=2), feature=STATE)
        encoder(IMAGES)
        assert (encoder.nfe, encoder.embedding_dim) == (2, 64)
        encoder.ode = OdeSpec(steps=5)
        assert encoder.nfe == 5
        encoder.feature = FeatureSpec(source="block", block="middle", tau=0.0)
        assert (encoder.nfe, encoder.embedding_dim) == (1, 16)

    def test_float64_images__as_numpy_has_them(self) -> None:
        encoder = PRGEncoder(unet(), ode=OdeSpec(steps=2), feature=STATE)
        torch.testing.assert_close(encoder(IMAGES.double()), encoder(IMAGES))

    def test_path_by_name_and_mistaken_arguments(self) -> None:
        assert PRGEncoder(unet(), path="variance_preserving").path == VariancePreservingPath()
        with pytest.raises(ValueError, match="takes a OdeSpec"):
            PRGEncoder(unet(), ode={"steps": 1})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="takes a Path"):
            PRGEncoder(unet(), path=VariancePreservingPath)  # type: ignore[arg-type]

    def test_mistake_inside_the_network__is_told(self) -> None:
        class Mistaken(Plain):
            def forward(self, tau: Tensor, x: Tensor) -> Tensor:
                return self.bodyy(x)  # type: ignore[no-any-return, operator]

        encoder = PRGEncoder(Mistaken(), feature=STATE, input_shape=(1, 8, 8))
        with pytest.raises(RuntimeError, match="no attribute 'bodyy'"):
            _ = encoder.embedding_dim

    def test_empty_batch(self) -> None:
        assert unet()(torch.tensor(0.5), IMAGES[:0]).shape == (0, 1, 8, 8)
        assert encode(unet(), 2 * IMAGES[:0] - 1, steps=2).shape == (0, 1, 8, 8)

    def test_positions_of_a_transformer__made_without_memory(self) -> None:
        def build() -> DiT:
            return DiT(image_size=8, in_channels=1, patch_size=4, width=16, depth=1, heads=2)

        trained = build()
        redraw_zero_weights(trained, generator_for(0, "test"))
        with torch.device("meta"):
            bare = build()
        bare = bare.to_empty(device="cpu")
        bare.positions.fill_(float("nan"))
        bare.load_state_dict(trained.state_dict())
        x, tau = 2 * IMAGES - 1, torch.tensor(0.3)
        assert torch.equal(bare(tau, x), trained(tau, x))


class TestLoss:
    def test_path_of_the_network__is_taken(self) -> None:
        network = velocity_from(
            Plain(), "noise", VariancePreservingPath(), call=lambda module, time, x: module(time, x)
        )
        network.eval()
        x = 2 * IMAGES - 1
        given = FlowMatchingLoss(path=network.path)(network, x, generator=torch.Generator().manual_seed(0))
        found = FlowMatchingLoss()(network, x, generator=torch.Generator().manual_seed(0))
        assert torch.equal(found, given)
        with pytest.raises(ValueError, match="and the loss of LinearPath"):
            FlowMatchingLoss(path="linear")(network, x)

    @pytest.mark.parametrize("tau", [torch.randint(0, 1000, (4,)), torch.tensor([0.0, 0.5, 1.0, 1.5])])
    def test_positions_off_the_path__are_refused(self, tau: Tensor) -> None:
        with pytest.raises(ValueError, match=r"positions in \[0, 1\]"):
            FlowMatchingLoss()(unet(), 2 * IMAGES - 1, tau=tau)

    def test_prediction_that_is_no_tensor__is_refused(self) -> None:
        with pytest.raises(ValueError, match="must return a tensor, got tuple"):
            FlowMatchingLoss()(lambda tau, x: (x,), 2 * IMAGES - 1)  # type: ignore[arg-type, return-value]
        with pytest.raises(ValueError, match="must return a tensor, got tuple"):
            encode(lambda tau, x: (x,), 2 * IMAGES - 1)  # type: ignore[arg-type, return-value]

    def test_views__are_normalised_as_the_encoder_does(self) -> None:
        model = PRG(4, 2, input_shape=(1, 8, 8), backbone=unet(), mean=0.3, std=0.7, feature=STATE)
        (view,) = model.make_views(BYTES, generator=torch.Generator().manual_seed(0))
        expected = model.encoder().normalize(BYTES.float() / 255)
        flipped = expected.flip(3)
        for row, image in enumerate(view):
            assert any(torch.allclose(image, other) for other in (expected[row], flipped[row]))

    @pytest.mark.filterwarnings("ignore")
    def test_online_probe__needs_classes(self) -> None:
        model = PRG(4, 2, input_shape=(1, 8, 8), backbone=unet(), online_probe=True, feature=STATE)
        with pytest.raises(ValueError, match="online probe needs the class"):
            training_step_of(model, 2 * IMAGES - 1)

    def test_what_is_not_finite__cannot_be_paired(self) -> None:
        with pytest.raises(ValueError, match="NaN or infinity"):
            couple(IMAGES * float("nan"), None, "optimal_transport")


class TestEvaluators:
    def test_method_in_training__is_no_encoder(self) -> None:
        model = PRG(4, 2, input_shape=(1, 8, 8), backbone=unet(), feature=STATE)
        with pytest.raises(ValueError, match=r"give its encoder\(\)"):
            embed(model, image_set())

    def test_other_data_sets__are_told_to_be_wrapped(self) -> None:
        encoder: Any = PRGEncoder(unet(), feature=STATE)
        plain: Any = torch.utils.data.TensorDataset(IMAGES, torch.zeros(4))
        for evaluate in (
            lambda: embed(encoder, plain),
            lambda: finetune(encoder, plain, plain),
            lambda: evaluate_robustness(LinearHead(64, 2), plain),
        ):
            with pytest.raises(ValueError, match=r"TensorDataset: lightly_prg\.wrap_dataset"):
                evaluate()

    def test_features_of_ones_own(self) -> None:
        rows = np.random.default_rng(0).normal(size=(40, 3))
        classes = [row % 2 for row in range(40)]
        own = Embeddings.of(rows, classes)
        of_tensors = Embeddings.of(torch.tensor(rows), torch.tensor(classes, dtype=torch.int32))
        np.testing.assert_array_equal(own.features, of_tensors.features)
        assert own.labels.tolist() == of_tensors.labels.tolist() == classes
        assert Embeddings.of(rows).labels.tolist() == [-1] * 40
        assert evaluate_knn(own, of_tensors, ks=5, k=5).by_k.keys() == {5}  # type: ignore[arg-type]
        assert evaluate_linear(own, own, penalties=0.1).penalty == (0.1,)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="whole numbers"):
            Embeddings.of(rows, np.zeros(40))
        with pytest.raises(ValueError, match=r"Embeddings\.of"):
            Embeddings(torch.tensor(rows), classes, (), 1, 0.0)  # type: ignore[arg-type]

    @pytest.mark.parametrize("indices", [[True, False], [0.7]])
    def test_selection__is_a_whole_mask_or_whole_numbers(self, indices: list[Any]) -> None:
        with pytest.raises(ValueError, match=r"(is|are) needed"):
            Embeddings.of(np.zeros((5, 2)), range(5)).select(indices)  # type: ignore[arg-type]

    def test_labels_that_number_no_classes__are_refused(self) -> None:
        own = Embeddings.of(np.random.default_rng(0).normal(size=(8, 3)), [0, 10**9] * 4)
        for evaluate in (evaluate_knn, evaluate_linear):
            with pytest.raises(UserError, match="label 1000000000"):
                evaluate(own, own)

    def test_principal_components__of_floats_are_of_floats(self) -> None:
        class Floats:
            def loader(self, **_: object) -> list[tuple[Tensor, None, None]]:
                return [(IMAGES, None, None)]

        fitted = fit_pca(Floats(), input_shape=(1, 8, 8), components=2)  # type: ignore[arg-type]
        assert float(fitted(IMAGES).mean(0).abs().max()) < 1e-5

    def test_distance_of_what_is_not_finite__is_refused(self) -> None:
        with pytest.raises(UserError, match="NaN or infinity"):
            frechet_distance(np.full((4, 2), np.nan), np.zeros((4, 2)))


def test_positions_to_stop_at__in_any_form() -> None:
    x = 2 * IMAGES - 1
    states = encode(unet(), x, tau_end=[0.1, 0.5], steps=4)
    for ends in (np.array([0.1, 0.5]), torch.tensor([0.1, 0.5], dtype=torch.float64)):
        assert torch.equal(encode(unet(), x, tau_end=ends, steps=4), states)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole number"):
        encode(unet(), x, steps=2.5)  # type: ignore[arg-type]
