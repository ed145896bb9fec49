from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.eval import RawPixels, embed, linear_augmented
from lightly_prg.eval.label_draws import hold_out
from lightly_prg.eval.linear_augmented import AugmentedLinearResult, evaluate_linear_augmented
from lightly_prg.randomness import generator_for
from lightly_prg.transforms.resized_crop import random_resized_crop

SMALL: dict[str, Any] = {"device": "cpu", "epochs": 5, "batch_size": 16}


def coloured(
    per_class: int, *, classes: int = 3, tint: int = 0, seed: int = 0, shuffle_labels: bool = False
) -> ImageSet:
    """Noisy images of 3x6x6 whose mean colour tells the class, the less the more of a random tint each has."""
    generator = generator_for(seed, "images")
    labels = torch.arange(classes).repeat(per_class)
    levels = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60], [60, 200, 200], [200, 60, 200]])
    noise = torch.randint(-40, 41, (len(labels), 3, 6, 6), generator=generator)
    tints = torch.randint(-tint, tint + 1, (len(labels), 3, 1, 1), generator=generator)
    if shuffle_labels:
        labels = labels[torch.randperm(len(labels), generator=generator)]
        levels = levels[:1].expand(classes, -1)
    return ImageSet(
        (levels[labels][:, :, None, None] + noise + tints).clamp(0, 255).byte(),
        labels=labels,
        names=[f"{seed}-{row}.png" for row in range(len(labels))],
        class_names=tuple("abcdef"[:classes]),
    )


class Toy(nn.Module):
    """A convolution, a batch normalisation and a dropout, which training mode or a gradient would give away."""

    embedding_dim = 8
    nfe = 2
    input_shape = (3, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3, generator=generator_for(0)) / 5)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.9)

    def forward(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert images.min() >= 0
        assert images.max() <= 1
        return self.dropout(self.norm(nn.functional.conv2d(images, self.weight))).mean((2, 3))


def digest(module: nn.Module) -> str:
    state = module.state_dict()
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


def timeless(result: AugmentedLinearResult) -> AugmentedLinearResult:
    return dataclasses.replace(result, seconds=0.0, images_per_second=0.0)


def test_separable_classes__are_all_told_apart() -> None:
    result = evaluate_linear_augmented(Toy(), coloured(30), coloured(20, seed=1), **SMALL)
    assert result.top1 == 100.0
    assert set(result.per_learning_rate) == {0.01, 0.03, 0.1, 0.3, 1.0}
    assert result.validation_top1 == 100.0
    assert result.top5 is None
    assert (result.num_train, result.num_validation, result.num_test) == (81, 9, 60)
    assert (result.epochs, result.steps, result.num_classes) == (5, 25, 3)
    assert (result.embedding_dim, result.nfe, result.seed) == (8, 2, 0)
    assert result.seconds > 0
    assert result.images_per_second > 0
    assert result.options == {
        "epochs": 5,
        "batch_size": 16,
        "learning_rates": [0.01, 0.03, 0.1, 0.3, 1.0],
        "crop_scale": [0.08, 1.0],
        "horizontal_flip": True,
        "precision": "32",
    }


def test_scale_of_the_features__changes_nothing() -> None:
    class Scaled(Toy):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * 2.0**-20

    plain, scaled = (
        evaluate_linear_augmented(encoder, coloured(20), coloured(10, seed=1), **SMALL) for encoder in (Toy(), Scaled())
    )
    assert (plain.top1, plain.learning_rate) == (scaled.top1, scaled.learning_rate)
    assert plain.top1 > 50.0


def test_labels_without_meaning__are_not_learned() -> None:
    train, test = (coloured(30, shuffle_labels=True, seed=seed) for seed in (0, 1))
    assert evaluate_linear_augmented(Toy(), train, test, **SMALL).top1 < 60


def test_frozen__means_frozen() -> None:
    encoder = Toy().train()
    encoder.norm.eval()
    before = digest(encoder)
    evaluate_linear_augmented(encoder, coloured(10), coloured(5, seed=1), **SMALL)
    assert digest(encoder) == before
    assert encoder.training
    assert encoder.dropout.training
    assert not encoder.norm.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in encoder.parameters())


def test_result__is_a_function_of_the_seed() -> None:
    train, test = coloured(20, tint=150), coloured(20, tint=150, seed=1)
    state = torch.get_rng_state()
    one, two, other = (evaluate_linear_augmented(Toy(), train, test, seed=seed, **SMALL) for seed in (0, 0, 1))
    assert timeless(one) == timeless(two)
    assert one.per_learning_rate != other.per_learning_rate
    assert torch.equal(torch.get_rng_state(), state)


def test_heads__are_those_of_one_learning_rate_each() -> None:
    train, validation, test = (coloured(20, tint=150, seed=seed) for seed in (0, 2, 1))
    rates = (0.001, 0.1, 10.0)
    together = evaluate_linear_augmented(Toy(), train, test, validation=validation, learning_rates=rates, **SMALL)
    alone = [
        evaluate_linear_augmented(Toy(), train, test, validation=validation, learning_rates=(rate,), **SMALL)
        for rate in rates
    ]
    assert together.per_learning_rate == {
        rate: result.validation_top1 for rate, result in zip(rates, alone, strict=True)
    }
    best = rates.index(together.learning_rate)
    assert together.top1 == alone[best].top1
    assert together.learning_rate_at_edge == (best != 1)
    assert not any(result.learning_rate_at_edge for result in alone)


def test_heads__are_lightlys_protocol() -> None:
    # The same training, written with a module, a schedule by formula and one learning rate.
    train, validation, test = (coloured(20, tint=150, seed=seed) for seed in (0, 2, 1))
    encoder = Toy().eval()
    norm = nn.BatchNorm1d(8, affine=False, eps=1e-6, momentum=None)
    head = nn.Linear(8, 3)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0, momentum=0.9)
    step, steps = 0, 6
    for epoch in range(2):
        order = torch.randperm(60, generator=generator_for(3, "linear-augmented order", epoch))
        for rows in order[:48].split(16):
            images, labels, _ = train.__getitems__(rows)
            views = random_resized_crop(
                images,
                scale=(0.3, 0.9),
                horizontal_flip=False,
                generator=generator_for(3, "linear-augmented", step),
            )
            optimizer.param_groups[0]["lr"] = 2.0 * 16 / 256 * 0.5 * (1 + np.cos(np.pi * step / steps))
            with torch.no_grad():
                features = norm(encoder(views))
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(features), labels).backward()
            optimizer.step()
            step += 1
    norm.eval()
    embedded = embed(encoder, test, device="cpu")
    expected = head(norm(torch.from_numpy(embedded.features))).argmax(1) == test.labels
    result = evaluate_linear_augmented(
        encoder,
        train,
        test,
        validation=validation,
        learning_rates=(2.0,),
        crop_scale=(0.3, 0.9),
        horizontal_flip=False,
        seed=3,
        **{**SMALL, "epochs": 2},
    )
    assert result.top1 == pytest.approx(100 * expected.float().mean().item())
    assert 34 < result.top1 < 100


def test_learning_rate__is_chosen_on_validation_alone() -> None:
    train, validation, test = (coloured(20, tint=150, seed=seed) for seed in (0, 2, 1))
    options = {"validation": validation, **SMALL}
    first = evaluate_linear_augmented(Toy(), train, test, **options)
    wrong = ImageSet(
        test.__getitems__(range(60))[0], labels=(test.labels + 1) % 3, names=test.names, class_names=test.class_names
    )
    second = evaluate_linear_augmented(Toy(), train, wrong, **options)
    assert first.top1 > second.top1 + 20
    assert timeless(second) == dataclasses.replace(timeless(first), top1=second.top1)
    highest = max(first.per_learning_rate.values())
    assert first.validation_top1 == first.per_learning_rate[first.learning_rate] == highest
    assert first.learning_rate == min(rate for rate, top1 in first.per_learning_rate.items() if top1 == highest)
    assert (first.num_train, first.num_validation) == (60, 60)
    assert len(set(first.per_learning_rate.values())) > 1


def test_without_validation__a_stratified_tenth_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = coloured(20), coloured(5, seed=1)
    seen: list[str] = []
    original = ImageSet.loader

    def loader(self: ImageSet, **options: Any) -> Any:
        seen.extend(self.names)
        return original(self, **options)

    monkeypatch.setattr(ImageSet, "loader", loader)
    result = evaluate_linear_augmented(Toy(), train, test, **{**SMALL, "epochs": 1, "batch_size": 9})
    pool, held = hold_out(train.labels.numpy(), seed=0)
    assert (result.num_train, result.num_validation) == (len(pool), len(held)) == (54, 6)
    # Validation, then every training image once, then test.
    assert seen[:6] == [train.names[row] for row in held]
    assert sorted(seen[6:60]) == sorted(train.names[row] for row in pool)
    assert seen[6:60] != [train.names[row] for row in pool]
    assert seen[60:] == test.names


def test_few_images__are_one_batch() -> None:
    result = evaluate_linear_augmented(
        Toy(), coloured(3), coloured(5, seed=1), validation=coloured(2, seed=2), device="cpu", epochs=3
    )
    assert (result.num_train, result.steps) == (9, 3)


def test_unknown_labels__are_left_out() -> None:
    def some(per_class: int, seed: int) -> tuple[ImageSet, ImageSet]:
        known = coloured(per_class, tint=150, seed=seed)
        pixels, labels, names = known.__getitems__(range(len(known)))
        both = ImageSet(
            torch.cat((pixels, 255 - pixels)),
            labels=torch.cat((labels, torch.full_like(labels, -1))),
            names=[*names, *(f"unknown {name}" for name in names)],
            class_names=known.class_names,
        )
        return known, both

    sets = [some(12, 0), some(10, 1), some(8, 2)]
    results = [
        evaluate_linear_augmented(Toy(), *[pair[index] for pair in sets[:2]], validation=sets[2][index], **SMALL)
        for index in (0, 1)
    ]
    assert timeless(results[0]) == timeless(results[1])
    assert results[1].num_test == 30


def test_top5__is_above_top1() -> None:
    train, test = (coloured(20, classes=6, tint=150, seed=seed) for seed in (0, 1))
    result = evaluate_linear_augmented(Toy(), train, test, **{**SMALL, "epochs": 2})
    assert result.top5 is not None
    assert 20 < result.top1 < result.top5 <= 100
    wide = evaluate_linear_augmented(Toy(), coloured(10), coloured(5, seed=1), num_classes=7, **SMALL)
    assert wide.num_classes == 7
    assert wide.top5 == 100


def test_half_precision__is_the_encoders() -> None:
    seen = []

    class Linear(nn.Module):
        embedding_dim, nfe = 5, 1

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 108, generator=generator_for(0)))

        def forward(self, images: Tensor) -> Tensor:
            features = nn.functional.linear(images.flatten(1), self.weight)
            seen.append(features.dtype)
            return features

    result = evaluate_linear_augmented(Linear(), coloured(20), coloured(5, seed=1), precision="bf16", **SMALL)
    assert set(seen) == {torch.bfloat16}
    assert result.top1 == 100
    with pytest.raises(ValueError, match="precision is '8'"):
        evaluate_linear_augmented(Linear(), coloured(20), coloured(5, seed=1), precision="8", **SMALL)


def test_progress__counts_all_images() -> None:
    seen: list[tuple[int, int]] = []
    evaluate_linear_augmented(
        Toy(),
        coloured(20),
        coloured(5, seed=1),
        progress=lambda done, total: seen.append((done, total)),
        **{**SMALL, "epochs": 2},
    )
    # 6 images of validation, two epochs of 54 // 16 batches, 15 images of test.
    expected = [6, *(6 + 16 * step for step in range(1, 7)), 6 + 96 + 15]
    assert seen == [(done, 117) for done in expected]


def test_heads_that_diverge__are_not_chosen() -> None:
    result = evaluate_linear_augmented(
        Toy(), coloured(20, tint=150), coloured(5, seed=1), learning_rates=(0.3, 3e39), **SMALL
    )
    assert result.learning_rate == 0.3
    assert result.per_learning_rate[3e39] == 0
    assert result.learning_rate_at_edge


def test_not_finite__names_the_image() -> None:
    class Bad(RawPixels):
        def forward(self, images: Tensor) -> Tensor:
            features = super().forward(images)
            # The pure white image is white in every crop.
            features[(images > 0.999).flatten(1).all(1)] = float("nan")
            return features

    train = coloured(10)
    pixels, labels, names = train.__getitems__(range(30))
    pixels[7] = 255
    white = ImageSet(pixels, labels=labels, names=names, class_names=train.class_names)
    with pytest.raises(FloatingPointError, match=r"a view of '0-7\.png' holds NaN"):
        evaluate_linear_augmented(
            Bad((3, 6, 6)), white, coloured(5, seed=1), validation=coloured(5, seed=2), **{**SMALL, "batch_size": 30}
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"learning_rates": ()}, "at least one is needed"),
        ({"learning_rates": (0.1, 0.0)}, "all above 0"),
        ({"learning_rates": (float("nan"),)}, "all above 0"),
        ({"crop_scale": (0.0, 1.0)}, r"crop_scale is \(0\.0, 1\.0\)"),
        ({"crop_scale": (0.5, 0.4)}, "the smaller first"),
        ({"num_classes": 2}, "num_classes is 2, and there is a label 2"),
    ],
)
def test_options__are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_linear_augmented(Toy(), coloured(4), coloured(2, seed=1), **{**SMALL, **options})


def test_labels__are_needed_of_two_classes() -> None:
    train, test = coloured(4), coloured(2, seed=1)
    with pytest.raises(UserError, match="No test image has a label"):
        evaluate_linear_augmented(Toy(), train, test.subset([]), **SMALL)
    one = train.subset((train.labels == 1).nonzero().flatten())
    with pytest.raises(UserError, match="Every training image has the label 1; the linear probe needs two classes"):
        evaluate_linear_augmented(Toy(), one, test, **SMALL)
    pixels, _, names = train.__getitems__(range(12))
    unknown = ImageSet(pixels, labels=None, names=names)
    with pytest.raises(UserError, match="No training image has a label"):
        evaluate_linear_augmented(Toy(), unknown, test, **SMALL)
    single = train.subset([0, 1, 2])
    with pytest.raises(UserError, match="No class has two labelled training images"):
        evaluate_linear_augmented(Toy(), single, test, **SMALL)


def test_grid__is_around_lightlys() -> None:
    assert 0.1 in linear_augmented.LEARNING_RATES
    assert list(linear_augmented.LEARNING_RATES) == sorted(linear_augmented.LEARNING_RATES)
