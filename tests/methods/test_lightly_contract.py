"""The three methods inside Lightly's own benchmark classes, unchanged, as its scripts use them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightly.data import LightlyDataset
from lightly.utils.benchmarking import FinetuneClassifier, KNNClassifier, LinearClassifier, MetricCallback
from PIL import Image
from torch.utils.data import DataLoader

from lightly_prg.methods import MAE, PRG, SimCLR, mae, prg, simclr
from lightly_prg.models import UNet
from lightly_prg.models.resnet import ResNet
from lightly_prg.models.vit import ViT
from lightly_prg.recipe import DecoderRecipe, MAERecipe, OdeSpec, TrainRecipe

pytestmark = pytest.mark.filterwarnings("ignore")


def small_unet() -> UNet:
    return UNet(image_size=32, channels=8, multipliers=(1, 2), blocks=1, attention=(), patch_size=4)


# As in Lightly's benchmarks/imagenet/*/main.py, with small networks.
METHODS: dict[str, dict[str, Any]] = {
    "prg": {
        "model": PRG,
        "transform": prg.transform,
        "network": lambda: {"backbone": small_unet(), "ode": OdeSpec(steps=1)},
    },
    "simclr": {
        "model": SimCLR,
        "transform": simclr.transform,
        "network": lambda: {"backbone": ResNet(depth=9, width=0.125)},
    },
    "mae": {
        "model": MAE,
        "transform": mae.transform,
        "network": lambda: {
            "backbone": ViT(patch_size=8, width=24, depth=1, heads=2),
            "settings": MAERecipe(name="mae", decoder=DecoderRecipe(width=24, depth=1, heads=2)),
        },
    },
}


@pytest.fixture
def folder(tmp_path: Any) -> Any:
    """24 coloured 40 x 36 images of two classes."""
    generator = torch.Generator().manual_seed(0)
    for label, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for index in range(12):
            pixels = torch.randint(0, 100, (36, 40, 3), generator=generator) + 150 * label
            Image.fromarray(pixels.byte().numpy()).save(tmp_path / name / f"{index}.png")
    return tmp_path


def trainer(*callbacks: Any, epochs: int = 1) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def build(name: str) -> Any:
    torch.manual_seed(0)
    return METHODS[name]["model"](batch_size_per_device=8, num_classes=2, **METHODS[name]["network"]())


def plain_loader(folder: Any) -> DataLoader[Any]:
    """What Lightly's evaluations see: one tensor for each image, normalised as in pretraining."""
    one_view = prg.PRGTransform(input_size=32, hf_prob=0.0)

    def view(image: Any) -> Any:
        return one_view(image)[0]

    return DataLoader(LightlyDataset(str(folder), transform=view), batch_size=8)


@pytest.mark.parametrize("name", METHODS)
class TestContract:
    def test_constructor__takes_what_the_scripts_give(self, name: str) -> None:
        parameters = list(inspect.signature(METHODS[name]["model"]).parameters.values())
        assert [p.name for p in parameters[:2]] == ["batch_size_per_device", "num_classes"]
        assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[2:])

    def test_defaults__are_three_channels_of_32(self, name: str) -> None:
        assert inspect.signature(METHODS[name]["model"]).parameters["input_shape"].default == (3, 32, 32)

    def test_pretraining__on_a_lightly_dataset_logs_train_loss(self, name: str, folder: Any) -> None:
        model = build(name)
        dataset = LightlyDataset(str(folder), transform=METHODS[name]["transform"])
        metrics = MetricCallback()
        before = {key: value.clone() for key, value in model.network.named_parameters()}
        trainer(metrics).fit(model, DataLoader(dataset, batch_size=8, shuffle=True, drop_last=True))
        assert len(metrics.train_metrics["train_loss"]) == 1
        trainable = [key for key, value in model.network.named_parameters() if value.requires_grad]
        moved = [key for key in trainable if not torch.equal(before[key], model.network.get_parameter(key))]
        assert moved
        averaged = dict(model.ema.module.named_parameters())
        assert any(not torch.equal(before[key], averaged[key]) for key in trainable)

    def test_knn_classifier__finds_separable_classes(self, name: str, folder: Any) -> None:
        classifier = KNNClassifier(
            model=build(name),
            num_classes=2,
            knn_k=3,
            knn_t=0.1,
            train_dataloader_idx=0,
            val_dataloader_idx=1,
            topk=(1,),
        )
        loaders = [plain_loader(folder), plain_loader(folder)]
        (_, found) = trainer().validate(classifier, dataloaders=loaders, verbose=False)
        assert found["val_knn_top1/dataloader_idx_1"] == pytest.approx(1.0)

    def test_linear_classifier__leaves_the_network_as_it_is(self, name: str, folder: Any) -> None:
        model = build(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        feature_dim = model.online_classifier.feature_dim
        classifier = LinearClassifier(model, 8, feature_dim=feature_dim, num_classes=2, topk=(1,))
        trainer().fit(classifier, plain_loader(folder), plain_loader(folder))
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_finetune_classifier__changes_the_network(self, name: str, folder: Any) -> None:
        model = build(name)
        before = [p.clone() for p in model.network.parameters()]
        feature_dim = model.online_classifier.feature_dim
        classifier = FinetuneClassifier(model, 8, feature_dim=feature_dim, num_classes=2, topk=(1,))
        trainer().fit(classifier, plain_loader(folder), plain_loader(folder))
        after = list(model.network.parameters())
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))

    def test_encoder__equals_forward_after_an_update_without_memory(self, name: str) -> None:
        model = build(name).eval()
        model.ema.module.load_state_dict(model.network.state_dict())
        images = torch.rand(3, 3, 32, 32)
        torch.testing.assert_close(model.encoder()(images), model(images * 2 - 1))
        assert model.encoder().embedding_dim == model.online_classifier.feature_dim

    def test_held_out_loss__is_repeatable_and_leaves_the_mode(self, name: str) -> None:
        model = build(name).train()
        images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        with torch.no_grad():
            losses = [float(model.held_out_loss(images, position)) for position in (0, 0, 1)]
        assert losses[0] == losses[1] != losses[2]
        assert model.training
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())

    def test_views__of_two_processes_are_those_of_one(self, name: str) -> None:
        model = build(name)
        images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)

        def views(part: slice) -> list[torch.Tensor]:
            generator = torch.Generator().manual_seed(3)
            found: list[torch.Tensor] = model.make_views(
                images[part], generator=generator, global_batch=6, first=part.start
            )
            return found

        for whole, first, second in zip(views(slice(0, 6)), views(slice(0, 2)), views(slice(2, 6)), strict=True):
            torch.testing.assert_close(whole, torch.cat([first, second]))
            assert whole.min() >= -1 - 1e-6
            assert whole.max() <= 1 + 1e-6


def test_weight_decay__spares_biases_and_normalisation() -> None:
    model = build("simclr")
    model.optimization = TrainRecipe(optimizer="sgd", lr=0.1, weight_decay=0.5, ema_decay=0.0)
    seen: list[Any] = []

    class Look(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.extend(trainer.optimizers[0].param_groups)

    loader: Callable[[], Any] = lambda: DataLoader([([torch.rand(3, 32, 32)] * 2, 0, "a")] * 4, batch_size=4)  # noqa: E731
    trainer(Look()).fit(model, loader())
    decay = {group["weight_decay"]: {id(p) for p in group["params"]} for group in seen}
    for part in model.trained_modules():
        for module in part.modules():
            for key, parameter in module.named_parameters(recurse=False):
                spared = key == "bias" or "BatchNorm" in type(module).__name__
                assert id(parameter) in decay[0.0 if spared else 0.5]
