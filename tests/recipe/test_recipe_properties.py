"""Any recipe that is valid survives being written and read."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lightly_prg.recipe import Recipe, parse_recipe

positive = st.integers(1, 2**40)
above_zero = st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False)
rate = st.floats(0, 1e6, exclude_min=True)
number = st.floats(0, allow_infinity=False, allow_nan=False)
share = st.floats(0, 1)
below_one = st.floats(0, 1, exclude_max=True)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
pool = st.one_of(st.sampled_from(["mean", "flatten"]), st.integers(1, 99).map("grid:{}".format))
taus = st.one_of(share, st.lists(share, min_size=1, max_size=4, unique=True))
name = st.from_regex(re.compile(r"\A\w[\w.+-]{0,9}\Z", re.ASCII), fullmatch=True)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=5,
)


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Sections with these keys, each of which may be left out, but for ``name``."""
    fixed = {key: value for key, value in keys.items() if key == "name"}
    return st.fixed_dictionaries(fixed, optional={key: value for key, value in keys.items() if key != "name"})


backbone = st.one_of(
    some(
        name=st.just("unet"),
        channels=positive,
        multipliers=st.lists(positive, max_size=4),
        attention=st.lists(positive, max_size=3),
        middle_attention=st.booleans(),
        dropout=below_one,
        tau_scale=above_zero,
    ),
    some(name=st.just("dit"), patch_size=positive, width=positive, mlp_ratio=above_zero),
    some(name=st.just("import"), kwargs=st.dictionaries(text, anything, max_size=3)).map(
        lambda section: {**section, "target": "package.module:Class"}
    ),
)
feature = st.one_of(
    st.fixed_dictionaries({"source": st.just("block"), "block": text, "tau": taus, "pool": pool}),
    st.fixed_dictionaries({"source": st.sampled_from(["state", "velocity", "denoised"]), "tau": taus, "pool": pool}),
)
ode = st.one_of(
    some(solver=text.filter(lambda name: not name.startswith("reversible_")), steps=positive, rtol=above_zero),
    st.fixed_dictionaries({"solver": st.just("reversible_midpoint"), "gradient": st.just("reversible")}),
)
auxiliary = some(
    loss=st.sampled_from(["ntxent", "vicreg", "barlow_twins", "dino", "lejepa", "none"]),
    block=text,
    weight=number,
    flow_weight=number,
    tau=st.tuples(share, share).map(sorted),
    temperature=above_zero,
)
network_feature = some(block=st.one_of(st.none(), text), pool=pool)
method = st.one_of(
    some(
        name=st.just("prg"),
        path=st.sampled_from(["linear", "trigonometric", "variance_preserving", "own"]),
        coupling=st.sampled_from(["independent", "optimal_transport"]),
        tau_sampling=st.sampled_from(["uniform", "logit_normal", "mode"]),
        backbone=backbone,
        ode=ode,
        feature=feature,
        augment=some(horizontal_flip=st.booleans(), crop_padding=st.integers(0, 9)),
        auxiliary=st.one_of(st.none(), auxiliary),
    ),
    some(name=st.just("simclr"), temperature=above_zero, feature=network_feature, augment=some(grey_probability=share)),
    some(name=st.just("mae"), mask_ratio=st.floats(0.01, 0.99), normalize_target=st.booleans()),
    some(name=st.just("pretrained"), weights=text, resize=st.one_of(st.none(), positive)).map(
        lambda section: {**section, "source": "timm:resnet18.a1_in1k"}
    ),
    some(name=st.just("generator"), label=st.one_of(st.none(), st.integers(0, 9)), ode=ode).map(
        lambda section: {**section, "source": "diffusers:a folder/with: odd #names"}
    ),
)
data = st.one_of(
    some(
        name=st.sampled_from(["digits", "fashion_mnist", "cifar10", "cifar100", "stl10"]),
        root=text,
        train_size=st.one_of(st.none(), positive),
        validation_fraction=below_one,
        download=st.booleans(),
    ),
    st.fixed_dictionaries({"name": st.just("folder"), "image_size": positive, "channels": st.sampled_from([1, 3])}),
)
train = some(
    epochs=positive,
    max_steps=st.one_of(st.none(), positive),
    optimizer=st.sampled_from(["adamw", "adam", "sgd", "lars"]),
    lr=rate,
    betas=st.tuples(below_one, below_one),
    warmup_epochs=number,
    clip=st.one_of(st.none(), above_zero),
    ema_decay=below_one,
    precision=st.sampled_from(["auto", "32", 32, "bf16", 16]),
    compile=st.sampled_from(["auto", True, False]),
    num_workers=st.one_of(st.just("auto"), st.integers(0, 64)),
    snapshots=st.lists(share, max_size=3),
    accelerator=text,
    devices=st.one_of(st.just("auto"), positive),
    strategy=text,
)
tuned = some(
    mode=st.sampled_from(["partial", "lora", "full"]),
    blocks=st.lists(text, max_size=2),
    labels=st.one_of(st.none(), above_zero),
    learning_rates=st.one_of(st.none(), st.lists(rate, max_size=3)),
    beta=number,
    feature=st.one_of(st.none(), st.dictionaries(text, anything, max_size=2)),
)
# A head alone trains no network whose flow could be kept.
finetune = st.one_of(tuned, tuned.map(lambda section: {**section, "mode": "head", "beta": 0}))
judged = some(
    split=st.sampled_from(["validation", "test"]),
    knn=st.one_of(st.none(), some(k=positive, ks=st.lists(positive, max_size=3), temperature=above_zero)),
    linear=st.one_of(st.none(), some(max_iterations=positive)),
    few_shot=st.one_of(st.none(), some(labels=positive, draws=positive)),
    finetune=st.one_of(st.none(), finetune),
    controls=st.lists(st.sampled_from(["raw_pixels", "pca", "random_network"]), max_size=3),
)
recipes = st.fixed_dictionaries(
    {"name": name, "data": data, "method": method},
    optional={
        "description": text,
        "seed": st.integers(0, 2**63),
        "init_from": text,
        "train": train,
        "eval": judged,
    },
).map(Recipe.model_validate)


@settings(deadline=None, max_examples=100)
@given(recipes)
def test_recipe__survives_yaml(recipe: Recipe) -> None:
    written = recipe.to_yaml()
    again = parse_recipe(written.encode("utf-8").decode("utf-8"))
    assert again == recipe
    assert again.sha256() == recipe.sha256()
    assert again.to_yaml() == written
