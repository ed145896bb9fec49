from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightly_prg import PRG, FeatureSpec, PRGTransform, UNet
from lightly_prg.errors import UserError
from lightly_prg.features import PRGEncoder
from lightly_prg.flow import LinearPath, TrigonometricPath
from lightly_prg.methods import build_velocity
from lightly_prg.recipe import ImportRecipe, TrainRecipe, UNetRecipe


class Views(Dataset[tuple[list[Tensor], int, str]]):
    """Batches in Lightly's format: a list of views, a target, a file name."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[list[Tensor], int, str]:
        generator = torch.Generator().manual_seed(index)
        return [torch.rand(1, 8, 8, generator=generator) * 2 - 1], index % 2, f"{index}.png"


def tiny(**settings: object) -> PRG:
    torch.manual_seed(0)
    backbone = UNet(
        image_size=8, in_channels=1, channels=8, multipliers=(1, 2), blocks=1, attention=(), middle_attention=False
    )
    return PRG(8, 2, input_shape=(1, 8, 8), backbone=backbone, **settings)  # type: ignore[arg-type]


def fit(model: PRG, epochs: int = 1) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(Views(), batch_size=8))
    return trainer


@pytest.mark.filterwarnings("ignore")
class TestPRG:
    def test_trainer__trains_and_logs_what_lightly_expects(self) -> None:
        model = tiny(optimization=TrainRecipe(lr=1e-2, epochs=1))
        before = [p.clone() for p in model.velocity.parameters()]
        averaged = [p.clone() for p in model.ema.module.parameters()]
        trainer = fit(model)
        assert "train_loss" in trainer.callback_metrics
        assert any(not torch.equal(a, b) for a, b in zip(before, model.velocity.parameters(), strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(averaged, model.ema.module.parameters(), strict=True))
        assert int(model.ema.updates) == 2

    def test_noise__depends_on_seed_and_step_not_on_the_global_generator(self) -> None:
        losses = []
        for seed in (0, 0, 1):
            model = tiny(seed=seed)
            torch.manual_seed(len(losses))
            losses.append(float(fit(model).callback_metrics["train_loss"]))
        assert losses[0] == losses[1] != losses[2]

    def test_forward__uses_the_trainable_network_and_encoder_the_average(self) -> None:
        model = tiny(feature=FeatureSpec(source="velocity", tau=0.5))
        model.ema.update(model.velocity)
        with torch.no_grad():
            for p in model.velocity.parameters():
                p.fill_(0.01)
        x = torch.rand(2, 1, 8, 8)
        assert model(x).abs().sum() > 0
        assert model.encoder()(x).abs().sum() == 0  # the average still has its zero output
        model(x).sum().backward()
        assert all(p.grad is None for p in model.ema.parameters())
        assert any(p.grad is not None for p in model.velocity.parameters())

    def test_contract__online_classifier_knows_the_dimension(self) -> None:
        model = tiny()
        assert model.online_classifier.feature_dim == model(torch.zeros(1, 1, 8, 8)).shape[1]
        assert not any(p.requires_grad for p in model.online_classifier.parameters())

    def test_online_probe__trains_the_classifier_but_not_the_generator_through_it(self) -> None:
        settings = TrainRecipe(lr=1e-2, optimizer="sgd", clip=0.05)  # below every gradient's norm
        plain, probed = tiny(optimization=settings), tiny(online_probe=True, optimization=settings)
        head = probed.online_classifier.classification_head.weight.clone()
        metrics = fit(probed).callback_metrics
        fit(plain)
        assert "train_online_cls_top1" in metrics
        assert not torch.equal(head, probed.online_classifier.classification_head.weight)
        for a, b in zip(plain.velocity.parameters(), probed.velocity.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_online_probe__leaves_batch_statistics_and_dropout_alone(self) -> None:
        torch.manual_seed(0)
        network = Noisy()
        plain, probed = (
            PRG(8, 2, input_shape=(1, 8, 8), backbone=copy.deepcopy(network), feature=AT_LAYER, online_probe=probe)
            for probe in (False, True)
        )
        for model in (plain, probed):
            torch.manual_seed(1)  # of dropout
            fit(model)
        for a, b in zip(plain.velocity.state_dict().values(), probed.velocity.state_dict().values(), strict=True):
            assert torch.equal(a, b)

    def test_weights_that_are_loaded__are_those_of_the_encoder(self) -> None:
        still = TrainRecipe(lr=1e-12, optimizer="sgd")
        model, other = tiny(feature=FeatureSpec(source="velocity", tau=0.5), optimization=still), tiny()
        with torch.no_grad():
            for p in other.velocity.parameters():
                p.normal_(std=0.1)
        model.velocity.load_state_dict(other.velocity.state_dict())
        fresh = copy.deepcopy(model)
        x = torch.rand(2, 1, 8, 8)
        torch.testing.assert_close(model.encoder()(x), model(2 * x - 1).detach())
        model = fresh  # nobody looked at its encoder
        fit(model)
        assert int(model.ema.updates) == 2
        for p, q in zip(model.ema.module.parameters(), other.velocity.parameters(), strict=True):
            torch.testing.assert_close(p, q.detach())

    def test_latents__are_taken_as_they_are(self) -> None:
        model = tiny(mean=0.0, std=1.0, feature=FeatureSpec(source="state", tau=0.0, pool="flatten"))
        z = torch.randn(2, 1, 8, 8)
        torch.testing.assert_close(model.encoder()(z), z.flatten(1))
        torch.testing.assert_close(model.encoder()(z), model(z))

    def test_path__is_the_one_that_the_network_was_made_for(self) -> None:
        network = Own()
        network.path = TrigonometricPath()  # type: ignore[assignment]
        assert PRG(8, 2, input_shape=(1, 8, 8), backbone=network, feature=AT_LAYER).path == TrigonometricPath()
        assert PRGEncoder(network).path == TrigonometricPath()
        assert PRGEncoder(network, LinearPath()).path == LinearPath()
        with pytest.raises(UserError, match="made for TrigonometricPath"):
            PRG(8, 2, input_shape=(1, 8, 8), backbone=network, feature=AT_LAYER, path="linear")

    def test_bytes__are_refused(self) -> None:
        with pytest.raises(ValueError, match="uint8"):
            tiny().loss([torch.zeros(2, 1, 8, 8, dtype=torch.uint8)], 0)

    def test_held_out_loss__is_repeatable(self) -> None:
        model = tiny()
        x = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
        assert float(model.held_out_loss(x, 0)) == float(model.held_out_loss(x, 0)) != float(model.held_out_loss(x, 1))


def test_transform__gives_what_forward_takes() -> None:
    from PIL import Image

    views = PRGTransform(input_size=8, normalize={"mean": [0.5], "std": [0.5]})(Image.new("L", (8, 8), 255))
    assert len(views) == 1
    assert views[0].shape == (1, 8, 8)
    assert tiny()(views[0][None]).ndim == 2


class Own(nn.Module):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, width * 2 - 1, padding=width - 1)

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class Noisy(Own):
    """With what a second run in training mode would change."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout(), nn.Conv2d(2, 1, 1))  # type: ignore[assignment]


AT_LAYER = FeatureSpec(source="block", block="layer", tau=0.5)


class TestBuildVelocity:
    def test_foreign_code__runs_only_when_trusted(self) -> None:
        recipe = ImportRecipe(name="import", target=f"{__name__}:Own", kwargs={"width": 3})
        with pytest.raises(UserError, match="trust"):
            build_velocity(recipe, (1, 8, 8))
        network = build_velocity(recipe, (1, 8, 8), trust=True)
        assert isinstance(network, Own)
        assert network.layer.kernel_size == (5, 5)

    @pytest.mark.parametrize(
        ("target", "kwargs", "told"),
        [
            ("no_such_module:X", {}, "cannot be imported"),
            (f"{__name__}:Missing", {}, "cannot be imported"),
            (f"{__name__}:Own", {"depth": 1}, "kwargs"),
            ("builtins:dict", {}, r"torch\.nn\.Module"),
        ],
    )
    def test_foreign_code__that_does_not_fit(self, target: str, kwargs: dict[str, int], told: str) -> None:
        with pytest.raises(UserError, match=told):
            build_velocity(ImportRecipe(name="import", target=target, kwargs=kwargs), (1, 8, 8), trust=True)

    def test_unet__that_does_not_fit_the_images(self) -> None:
        with pytest.raises(UserError, match=r"method\.backbone"):
            build_velocity(UNetRecipe(name="unet", multipliers=(1, 2, 2, 2), channels=8, blocks=1), (1, 9, 9))
