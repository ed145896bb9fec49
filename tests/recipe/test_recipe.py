from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightly_prg.errors import UserError
from lightly_prg.recipe import FeatureSpec, load_recipe, parse_recipe, shipped_recipes


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipe__survives_yaml(name: str) -> None:
    recipe = load_recipe(name)
    again = parse_recipe(recipe.to_yaml())
    assert again == recipe
    assert again.sha256() == recipe.sha256()
    assert recipe.description, "`recipes list` shows it"


def test_override__text_that_yaml_does_not_read_as_a_number() -> None:
    # PyYAML reads 1e-4 as a string.
    assert load_recipe("quickstart", ["train.lr=1e-4"]).train.lr == 1e-4
    assert load_recipe("quickstart", ["train.precision=32"]).train.precision == "32"


def test_override__another_backbone_drops_the_keys_of_the_old_one() -> None:
    recipe = load_recipe("quickstart", ["method.backbone.name=dit", "method.backbone.depth=2"])
    assert recipe.method.backbone.name == "dit"
    assert recipe.method.backbone.depth == 2


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.epoch=3", ["'train.epoch'", "given: 3", "did you mean 'train.epochs'", "batch_size"]),
        ("method.backbone.chanels=8", ["'method.backbone.chanels'", "did you mean 'method.backbone.channels'"]),
        ("train.epochs=abc", ["train.epochs", "'abc'", "integer"]),
        ("train.epochs=-1", ["train.epochs", "-1", "greater than or equal to 0"]),
        ("train.epochs=true", ["train.epochs", "True", "number"]),
        ("train.epochs=2.5", ["train.epochs", "2.5"]),
        ("train.betas=[1, 0.9]", ["train.betas", "1", "less than 1"]),
        ("train.lr=1e300", ["train.lr", "1e300", "1000000"]),
        ("train.lr=.nan", ["train.lr", "nan", "finite"]),
        ("method.path=lin", ["method.path", "'lin'", "'linear'", "'trigonometric'"]),
        ("method.name=prq", ["method.name", "'prq'", "did you mean 'prg'"]),
        ("method.backbone.name=unt", ["method.backbone.name", "'unt'", "did you mean 'unet'"]),
        ("method.feature.tau=2", ["method.feature.tau", "2", "[0, 1]"]),
        ("method.feature.pool=men", ["method.feature.pool", "'men'", "'mean'", "grid:N"]),
        ("method.feature.block=null", ["method.feature", "block"]),
        ("data.name=digit", ["data.name", "did you mean 'digits'"]),
        ("data.name=folder", ["data.image_size"]),
        ("name=../x", ["name", "'../x'"]),
        ("train=3", ["train"]),
        ("seed=-1", ["seed", "-1"]),
        ("nonsense", ["'nonsense'", "key.sub=value"]),
        ("name.sub=1", ["name", "not a section"]),
    ],
)
def test_mistake__is_told_in_one_sentence(override: str, told: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_recipe("quickstart", [override])
    message = str(error.value)
    assert "\n" not in message
    assert "pydantic" not in message
    for part in told:
        assert part in message


def test_unknown_recipe__names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        load_recipe("quikstart")


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "", "name: x"])
def test_file_that_is_no_recipe(text: str) -> None:
    with pytest.raises(UserError):
        parse_recipe(text)


def test_sha256__leaves_out_what_does_not_change_the_result() -> None:
    base = load_recipe("quickstart")
    same = load_recipe("quickstart", ["data.root=/elsewhere", "train.devices=4", "train.num_workers=2", "name=other"])
    assert same.sha256() == base.sha256()
    assert load_recipe("quickstart", ["train.lr=2e-3"]).sha256() != base.sha256()
    assert load_recipe("quickstart", ["seed=1"]).sha256() != base.sha256()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4, unique=True))
def test_feature__several_tau_survive_yaml(taus: list[float]) -> None:
    feature = FeatureSpec(source="state", tau=taus)
    assert feature.taus == tuple(taus)
    assert FeatureSpec.model_validate(feature.model_dump(mode="json")) == feature


def test_updates_of_low_rank__are_described_for_their_mode_alone() -> None:
    with pytest.raises(UserError, match=r"lora describes the updates of mode 'lora'; the mode is 'full'"):
        load_recipe("quickstart", ["eval.finetune={lora: {rank: 4}}"])
    resolved = load_recipe("quickstart", ["eval.finetune={mode: full}"]).to_yaml()
    assert parse_recipe(resolved).eval.finetune is not None, (
        "the defaults of another mode stand in every resolved recipe"
    )
    assert load_recipe("quickstart", ["eval.finetune={mode: lora, lora: {rank: 4}}"]).eval.finetune.lora.rank == 4  # type: ignore[union-attr]
