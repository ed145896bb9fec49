from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.eval import RawPixels, result_to_dict
from lightly_prg.eval.cache import encoder_sha256
from lightly_prg.eval.finetuning.finetune import FinetuneResult, finetune
from lightly_prg.eval.finetuning.loop import FinetuneLoop
from lightly_prg.eval.finetuning.model import FineTuned
from lightly_prg.eval.finetuning.presets import PRESETS

SIZE = 8
LEVELS = ((30, 30), (210, 210), (30, 210), (210, 30))


def images(per_class: int, *, classes: int = 2, channels: int = 1, seed: int = 0, noise: int = 10) -> ImageSet:
    """Images whose upper and lower half are dark or bright, by class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(per_class)
    levels = torch.tensor(LEVELS)[labels].repeat_interleave(SIZE // 2, dim=1)[:, None, :, None]
    shift = torch.randint(-noise, noise + 1, (len(labels), channels, SIZE, SIZE), generator=generator)
    return image_set((levels + shift).to(torch.uint8), labels)


def image_set(pixels: Tensor, labels: Tensor) -> ImageSet:
    return ImageSet(pixels, labels=labels, names=[f"{row}.png" for row in range(len(labels))], class_names="abcdefgh")


class Encoder(nn.Module):
    """A state of the image's shape, from three blocks with a batch normalisation and a dropout."""

    blocks = ("network.stem", "network.layers.0", "network.layers.1")
    nfe = 3

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.network = nn.ModuleDict(
            {
                "stem": nn.Conv2d(channels, 4, 3, padding=1, bias=False),
                "layers": nn.ModuleList(
                    [nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1)), nn.Conv2d(4, channels, 1)]
                ),
            }
        )
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.rand(parameter.shape, generator=generator)
        self.unused = nn.Parameter(torch.zeros(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        assert 0.0 <= float(x.min()) <= float(x.max()) <= 1.0
        first, second = self.network["layers"]  # type: ignore[misc]
        return (x + second(first(self.network["stem"](x)))).flatten(1)


def run(encoder: nn.Module | None = None, **options: Any) -> tuple[FinetuneResult, FineTuned]:
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 8,
        "learning_rates": [1e-2],
        "device": "cpu",
        "train": images(10),
        "test": images(4, seed=1),
        "validation": images(4, seed=2),
    } | options
    return finetune(Encoder() if encoder is None else encoder, **settings)


def changed(encoder: nn.Module, model: FineTuned) -> set[str]:
    before, after = encoder.state_dict(), model.encoder.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def comparable(result: FinetuneResult) -> FinetuneResult:
    return dataclasses.replace(result, seconds=0.0, cpu_seconds=0.0)


BUFFERS = {f"network.layers.0.0.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
NORM = {"network.layers.0.0.weight", "network.layers.0.0.bias"}
LAST = {"network.layers.1.weight", "network.layers.1.bias"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mode": "head"}, set()),
        ({"mode": "partial", "blocks": ["network.layers.1"]}, LAST),
        ({"mode": "partial", "blocks": ("network.layers.0",)}, NORM | BUFFERS),
        ({"mode": "partial", "blocks": ("layers.1",)}, LAST),  # the network's own name for it
        ({"mode": "partial", "blocks": ["network.layers.1.bias"]}, {"network.layers.1.bias"}),
        ({"mode": "full"}, LAST | NORM | BUFFERS | {"network.stem.weight"}),
    ],
)
def test_mode__trains_exactly_that(options: dict[str, Any], expected: set[str]) -> None:
    encoder = Encoder().train()
    encoder.network["stem"].requires_grad_(False)  # frozen by others; `full` means all
    before, modes = encoder_sha256(encoder), [module.training for module in encoder.modules()]
    result, model = run(encoder, **options)
    assert changed(encoder, model) == expected
    assert encoder_sha256(encoder) == before
    assert [module.training for module in encoder.modules()] == modes
    assert all(parameter.grad is None for parameter in encoder.parameters())
    trained = {name: p for name, p in model.encoder.named_parameters() if name in expected}
    unused = 1 if options["mode"] == "full" else 0
    of_head = sum(p.numel() for p in model.head.parameters())
    assert result.trainable_parameters == sum(p.numel() for p in trained.values()) + unused + of_head
    assert result.blocks == tuple(f"network.{name.removeprefix('network.')}" for name in options.get("blocks", ()))
    assert not model.training


def test_frozen_modules__stay_in_evaluation_mode() -> None:
    model = FineTuned(Encoder(), nn.Linear(64, 2), trained=("network.layers.0",)).freeze().train()
    training = {name for name, module in model.named_modules() if module.training and name}
    assert training == {"head", "encoder.network.layers.0"} | {f"encoder.network.layers.0.{i}" for i in range(3)}
    assert not any(module.training for module in model.eval().modules())
    assert all(module.training for module in FineTuned(Encoder(), nn.Linear(64, 2)).train().modules())


def test_separable__is_learnt() -> None:
    result, model = run(train=images(20, classes=4), test=images(5, classes=4, seed=1), validation=None, epochs=10)
    assert result.top1 == result.validation_top1 == 100.0
    assert result.top5 is None
    assert (result.num_train, result.num_validation, result.num_test) == (72, 8, 20)
    assert (result.num_classes, result.embedding_dim, result.nfe) == (4, 64, 3)
    assert (result.epochs, result.steps) == (10, 90)
    assert [record.epoch for record in result.curve] == list(range(1, 11))
    assert result.curve[-1].train_loss < 0.8 * result.curve[0].train_loss
    assert result.curve[-1].validation_top1 == result.validation_top1
    test = images(5, classes=4, seed=1)
    logits = model(torch.stack([test[row][0] for row in range(20)]).float() / 255)
    assert logits.argmax(1).tolist() == test.labels.tolist()
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_validating_rarely__changes_nothing_but_the_curve() -> None:
    options = {"train": images(10, noise=25), "preset": "mae", "validation": None, "labels": 5, "epochs": 8}
    whole, model = run(**options)
    rarely, other = run(**options, validate_at=(0.01, 0.25, 0.75))
    told = {record.epoch: record.validation_top1 for record in rarely.curve if record.validation_top1 is not None}
    every = {record.epoch: record.validation_top1 for record in whole.curve}
    assert told == {epoch: every[epoch] for epoch in (1, 2, 6, 8)}
    assert [record.train_loss for record in rarely.curve] == [record.train_loss for record in whole.curve]
    assert (rarely.top1, rarely.validation_top1) == (whole.top1, whole.validation_top1)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_shuffled_labels__are_chance() -> None:
    train = images(100, classes=4)
    train.labels = train.labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    result, _ = run(train=train, test=images(50, classes=4, seed=1), mode="head")
    assert result.top1 < 60


def test_same_seed__is_the_same_to_the_last_bit() -> None:
    options = {"train": images(10, noise=25), "preset": "mae", "validation": None, "labels": 5}
    one, first = run(**options)
    torch.rand(3)
    two, second = run(**options)
    assert comparable(one) == comparable(two)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    other, _ = run(**options, seed=1)
    assert other.curve != one.curve


def test_global_state__is_left_alone() -> None:
    encoder, state = Encoder(), torch.get_rng_state()
    run(encoder, preset="mae")
    assert torch.equal(torch.get_rng_state(), state)


def test_order__is_another_one_with_another_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    original = FinetuneLoop._loss

    def loss(self: FinetuneLoop, inputs: Tensor, *arguments: Any) -> Tensor:
        seen.append(arguments[0][:, 0, 0, 0].tolist())
        return original(self, inputs, *arguments)

    monkeypatch.setattr(FinetuneLoop, "_loss", loss)
    train = image_set(
        torch.arange(11).repeat(SIZE, SIZE, 1, 1).permute(3, 2, 0, 1).to(torch.uint8), torch.arange(11) % 2
    )
    run(train=train, batch_size=4)
    # Two full batches of eleven images in either epoch, in another order.
    assert [len(part) for part in seen] == [4, 4, 4, 4]
    epochs = [seen[0] + seen[1], seen[2] + seen[3]]
    assert len(set(epochs[0])) == len(set(epochs[1])) == 8
    assert epochs[0] != epochs[1]
    first = list(seen)
    run(train=train, batch_size=4, seed=1)
    assert seen[4:] != first


def test_learning_rate__is_chosen_on_validation_and_test_is_seen_once() -> None:
    # What is learnt is wrong on every validation image and right on every test image.
    validation = images(4, seed=2)
    validation.labels = 1 - validation.labels
    calls = []

    class Watched(ImageSet):
        def loader(self, **options: Any) -> Any:
            calls.append(options)
            return super().loader(**options)

    plain = images(4, seed=1)
    test = Watched(plain._source, labels=plain.labels, names=plain.names, class_names=plain.class_names)
    result, _ = run(validation=validation, test=test, learning_rates=[1e-2, 1e-9], epochs=6)
    assert len(calls) == 1
    assert result.learning_rate == 1e-9
    assert [trial.learning_rate for trial in result.per_learning_rate] == [1e-9, 1e-2]
    assert result.learning_rate_at_edge
    assert result.per_learning_rate[1].validation_top1 == 0.0
    assert result.validation_top1 == result.per_learning_rate[0].validation_top1
    assert result.validation_top1 is not None
    assert result.validation_top1 > 0
    assert run(test=test, learning_rates=[1e-2, 1e-9], epochs=6)[0].top1 == 100.0 > result.top1


def test_test_labels__choose_nothing() -> None:
    test = images(4, seed=1)
    test.labels = 1 - test.labels
    right, first = run(learning_rates=[1e-3, 1e-2], epochs=4)
    wrong, second = run(learning_rates=[1e-3, 1e-2], epochs=4, test=test)
    assert right.top1 == 100.0 - wrong.top1
    judged = {"top1": right.top1, "calibration_error": right.calibration_error}
    assert comparable(dataclasses.replace(wrong, **judged)) == comparable(right)
    assert changed(first.encoder, second) == set()


def test_equal_learning_rates__the_smaller_wins() -> None:
    result, _ = run(learning_rates=[2e-2, 1e-2], epochs=8)
    assert [trial.validation_top1 for trial in result.per_learning_rate] == [100.0, 100.0]
    assert result.learning_rate == 1e-2
    assert not run(learning_rates=[1e-2], epochs=1)[0].learning_rate_at_edge


def test_not_finite__is_skipped_and_named() -> None:
    seen: list[tuple[int, int]] = []
    result, _ = run(learning_rates=[1e-2, 1e37], progress=lambda done, total: seen.append((done, total)))
    failed = result.per_learning_rate[1]
    assert failed.learning_rate == 1e37
    assert failed.validation_top1 is None
    assert failed.failed_at_step is not None
    assert 1 <= failed.failed_at_step <= result.steps
    assert result.learning_rate == 1e-2
    assert seen[:4] == [(1, 8), (2, 8), (3, 8), (4, 8)]
    with pytest.raises(UserError, match=r"every learning rate tried \(1e\+37\)"):
        run(learning_rates=[1e37])


@pytest.mark.parametrize(("labels", "fitted"), [(3, 6), (0.5, 10), (None, 18)])
def test_labels__are_that_many_of_each_class(labels: int | float | None, fitted: int) -> None:
    counts: list[int] = []

    def count(encoder: nn.Module, inputs: Tensor, step: int) -> Tensor:
        bright = int((inputs.mean((1, 2, 3)) > 60 / 255).sum())
        counts.append(bright)
        assert 2 * bright == len(inputs) == fitted
        return inputs.new_zeros(())

    result, _ = run(labels=labels, validation=None, batch_size=50, extra_loss=count)
    assert result.num_train == fitted
    assert result.num_validation == 2
    assert len(counts) == result.steps == 2


def test_extra_loss__reaches_the_encoder_that_is_trained() -> None:
    encoder = Encoder()
    steps: list[int] = []

    def extra(inner: nn.Module, inputs: Tensor, step: int) -> Tensor:
        assert inner is not encoder
        assert inner.training
        assert inputs.shape[1:] == (1, SIZE, SIZE)
        assert 0.0 <= float(inputs.min()) <= float(inputs.max()) <= 1.0
        steps.append(step)
        unused: Any = inner.unused
        return 100 * (unused - 5.0).square().sum()

    _, without = run(encoder)
    result, model = run(encoder, extra_loss=extra)
    assert steps == list(range(result.steps))
    assert without.encoder.unused.item() == encoder.unused.item() == 0.0
    assert model.encoder.unused.item() > 0.005
    assert result.curve[0].train_loss > 1000
    assert result.options["extra_loss"] is True


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets__run_on_grey_and_colour(preset: str, channels: int) -> None:
    result, model = run(
        Encoder(channels),
        preset=preset,
        train=images(6, channels=channels),
        test=images(2, channels=channels),
        validation=images(2, channels=channels),
        epochs=1,
        batch_size=None,
        learning_rates=None,
    )
    assert result.preset == preset
    assert result.steps == 1
    assert type(model.head).__name__ == {"prg": "PRGHead"}.get(preset, "LinearHead")
    learning_rates = {"shared": [3e-4, 1e-3, 3e-3], "prg": [1.25e-4 / 4], "mae": [2.5e-4]}[preset]
    assert [trial.learning_rate for trial in result.per_learning_rate] == pytest.approx(learning_rates)
    assert result.options["preset"] == dataclasses.asdict(PRESETS[preset])
    assert json.loads(json.dumps(result_to_dict(result)))["per_learning_rate"][0]["failed_at_step"] is None


def test_last_learning_rate__of_mae_is_its_own() -> None:
    mae = PRESETS["mae"]
    assert mae.grid(mae.batch_size)[0] * mae.final_share == pytest.approx(1e-6)


def test_layer_decay__holds_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[list[float]] = []
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append([group["lr"] for group in self.param_groups])
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(preset="mae", epochs=4)
    assert len(rates) == 8
    assert len({row[-1] for row in rates}) > 3
    for row in rates:
        # `unused` before the stem, the stem, the norm, the last layer twice (with its bias), the head twice.
        assert [rate / row[-1] for rate in row] == pytest.approx([0.65**power for power in (4, 3, 2, 1, 1, 0, 0)])


def test_parameter_groups__are_taken_as_given() -> None:
    def groups(encoder: nn.Module, head: nn.Module, rate: float) -> list[dict[str, Any]]:
        assert rate == 1e-2
        return [{"params": list(encoder.parameters()), "lr": 0.0}, {"params": list(head.parameters())}]

    encoder = Encoder()
    result, model = run(encoder, parameter_groups=groups)
    assert changed(encoder, model) == BUFFERS
    assert result.options["parameter_groups"] is True
    with pytest.raises(ValueError, match=r"'encoder\.unused' is in 0"):
        run(parameter_groups=lambda encoder, head, rate: [{"params": list(head.parameters())}])


def test_own_head__starts_from_its_weights_and_is_not_changed() -> None:
    head = nn.Linear(64, 2)
    before = copy.deepcopy(head.state_dict())
    _, model = run(head=head, learning_rates=[1e-9])
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())
    torch.testing.assert_close(model.head.state_dict(), before, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"\(2, 3\) of 2 embeddings; \(2, 2\)"):
        run(head=nn.Linear(64, 3))


def test_encoder_without_parameters__has_a_head_to_train() -> None:
    result, _ = run(RawPixels((1, SIZE, SIZE)), epochs=8)
    assert result.top1 == 100.0
    assert result.trainable_parameters == 65 * 2
    assert result.nfe == 0


def test_precision__is_lower_inside() -> None:
    exact, _ = run()
    rough, model = run(precision="bf16")
    assert rough.curve[-1].train_loss != exact.curve[-1].train_loss
    assert rough.curve[-1].train_loss == pytest.approx(exact.curve[-1].train_loss, abs=0.1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_unknown_labels__are_left_out() -> None:
    parts = [images(10), images(4, seed=1), images(4, seed=2)]
    for part in parts:
        part.labels[:3] = -1
    result, _ = run(train=parts[0], test=parts[1], validation=parts[2])
    assert (result.num_train, result.num_test, result.num_validation) == (17, 5, 5)


def test_top5__counts_five() -> None:
    train, test = images(4, classes=4), images(4, classes=4, seed=1)
    result, _ = run(train=train, test=test, validation=test, num_classes=5)
    assert result.top5 == 100.0
    assert run(train=train, test=test, validation=test, num_classes=7)[0].num_classes == 7


def relabelled(label: int) -> ImageSet:
    part = images(4)
    part.labels[:] = label
    return part


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "mea"}, "no preset 'mea': allowed are shared, prg, mae; did you mean 'mae'"),
        ({"mode": "half"}, "allowed are head, partial, lora, full"),
        ({"mode": "head", "blocks": ["network"]}, "the mode is 'head'"),
        ({"mode": "lora"}, "'lora' and an adapter go together"),
        ({"ema_decay": 1.0}, r"ema_decay is 1\.0"),
        ({"mode": "partial"}, r"network\.stem, network\.layers\.0, network\.layers\.1"),
        ({"mode": "partial", "blocks": ["network.layer.1"]}, r"in 'network\.layer\.1'; near are network\.layers\.1"),
        ({"mode": "partial", "blocks": ["network.layers.10"]}, r"near are network\.layers\.1"),
        ({"epochs": 0}, "epochs is 0; at least 1"),
        ({"batch_size": 1}, "batch_size is 1; at least 2"),
        ({"learning_rates": []}, "at least one is needed"),
        ({"learning_rates": [0.1, -1.0]}, "all above 0"),
        ({"precision": "64"}, "allowed are 32, bf16, 16"),
        ({"labels": 0}, "labels is 0"),
        ({"labels": 1.5}, r"labels is 1\.5"),
        ({"labels": 99}, "99 labels of each class"),
        ({"num_classes": 1}, "there is a label 1"),
        ({"train": relabelled(-1)}, "No training image"),
        ({"test": relabelled(-1)}, "No test image"),
        ({"train": relabelled(1)}, "label 1; fine-tuning needs two classes"),
        ({"train": images(1), "validation": None}, "none can be held out to choose hyper-parameters"),
        ({"device": "abacus"}, "'abacus' is not available"),
    ],
)
def test_mistakes__end_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(**options)


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), {"preset": "prg"}, "the embedding has 5"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), {"preset": "mae"}, "does not name its `blocks`"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)),
            {"mode": "partial", "blocks": ["zzz"]},
            "'zzz'; it has 1$|'zzz'; it has 1[.]",
        ),
        (lambda: nn.Flatten(), {"mode": "partial", "blocks": ["a"]}, "only the head can be trained"),
        (lambda: nn.Identity(), {}, r"\(2, 1, 8, 8\) of 2 images"),
    ],
)
def test_encoder__has_to_fit(encoder: Callable[[], nn.Module], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(encoder(), **options)
