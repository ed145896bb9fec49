from __future__ import annotations

import pytest

from lightly_prg.cost import estimate
from lightly_prg.data import describe_data
from lightly_prg.errors import UserError
from lightly_prg.recipe import load_recipe


@pytest.mark.parametrize(
    ("name", "millions", "billions"), [("cifar10_prg_icfm", 52.54, 8.4), ("cifar10_prg_gvp", 52.54, 8.4)]
)
def test_paper_configuration__has_its_size_and_cost(name: str, millions: float, billions: float) -> None:
    recipe = load_recipe(name)
    cost = estimate(recipe, describe_data(recipe.data))
    assert cost.parameters / 1e6 == pytest.approx(millions, abs=0.005)
    assert cost.forward_macs / 1e9 == pytest.approx(billions, rel=0.05)
    assert cost.nfe == 31
    assert cost.steps == 45_000 // 128 * recipe.train.epochs
    assert cost.training_macs == 3 * cost.forward_macs * cost.steps * 128


def test_block_feature__counts_its_own_evaluation() -> None:
    recipe = load_recipe("quickstart", ["method.ode.steps=3", "method.ode.solver=heun2"])
    assert estimate(recipe, describe_data(recipe.data)).nfe == 7


@pytest.mark.parametrize("gradient", ["full", "checkpoint", "adjoint"])
def test_state_feature__counts_the_same_by_every_gradient(gradient: str) -> None:
    state = ["method.feature={source: state, tau: 1.0, pool: flatten}", "method.ode={solver: euler, steps: 4}"]
    recipe = load_recipe("quickstart", [*state, f"method.ode.gradient={gradient}"])
    assert estimate(recipe, describe_data(recipe.data)).nfe == 4


@pytest.mark.parametrize("source", ["state", "velocity", "denoised"])
def test_pooling__takes_no_evaluation(source: str) -> None:
    """A grid as fine as a scan takes for images, which the stand-in for the network is too small for."""
    feature = f"method.feature={{source: {source}, tau: 0.5, pool: 'grid:16'}}"
    recipe = load_recipe("quickstart", [feature, "method.ode={solver: euler, steps: 4}"])
    assert estimate(recipe, describe_data(recipe.data)).nfe == (4 if source == "state" else 5)


def test_unknown_solver__is_told() -> None:
    recipe = load_recipe("quickstart", ["method.ode.solver=foo"])
    with pytest.raises(UserError, match=r"method: .*'foo'"):
        estimate(recipe, describe_data(recipe.data))


def test_memory__grows_with_the_batch_but_not_the_weights() -> None:
    small = load_recipe("quickstart", ["train.batch_size=1"])
    large = load_recipe("quickstart", ["train.batch_size=101"])
    info = describe_data(small.data)
    one, many = (estimate(recipe, info).memory_bytes for recipe in (small, large))
    activations = (many - one) / 100
    assert one == pytest.approx(20 * estimate(small, info).parameters + activations)
    assert activations > 1e5


def test_joint_training__counts_a_part_of_the_flow_and_two_views_up_to_the_block() -> None:
    plain = load_recipe("cifar10_prg_joint_cpu", ["method.auxiliary=null"])
    info = describe_data(plain.data)
    whole = estimate(plain, info).training_macs
    alone, joint = (
        estimate(load_recipe("cifar10_prg_joint_cpu", [f"method.auxiliary.flow_weight={weight}"]), info).training_macs
        for weight in (0, 1)
    )
    assert whole is not None
    assert alone is not None
    assert joint is not None
    assert joint - alone == pytest.approx(whole / 4, rel=1e-6)
    assert 0.6 < alone / whole < 0.7, "two views through the contracting half, about a third of the network each"


def macs_of_a_step(loss: str, **settings: object) -> int:
    changes = [f"method.auxiliary.{key}={value}" for key, value in {"loss": loss, **settings}.items()]
    recipe = load_recipe("cifar10_prg_joint_cpu", changes)
    cost = estimate(recipe, describe_data(recipe.data))
    assert cost.training_macs is not None
    assert cost.steps is not None
    return round(cost.training_macs / cost.steps / recipe.train.batch_size)


def test_head__is_trained_as_well() -> None:
    """NT-Xent's is 96 -> hidden -> output, on two views, forward and backward."""
    small, large = (macs_of_a_step("ntxent", projection=f"{{hidden: {n}, output: {n}}}") for n in (8, 1024))
    assert large - small == 3 * 2 * (96 * (1024 - 8) + 1024**2 - 8**2)


def test_dino__runs_its_views_through_the_averaged_network_too() -> None:
    options = {"flow_weight": 0, "projection": "{hidden: 8, output: 8}"}
    ntxent, dino = (macs_of_a_step(loss, **options) for loss in ("ntxent", "dino"))
    assert dino / ntxent == pytest.approx(4 / 3, rel=1e-3), "a fourth forward, without gradient; heads are tiny"


def test_teacher_of_an_alignment__runs_forward_on_the_images_of_the_flow() -> None:
    teacher = {"teacher": "torchvision:resnet18", "teacher_block": "layer4", "teacher_resize": 224, "weight": 1}
    head = {"projection": "{hidden: 8, output: 8}"}
    plain = macs_of_a_step("none", flow_every=1)
    for every in (1, 4):
        align = macs_of_a_step("align", flow_every=every, **teacher, **head)
        assert align - plain == pytest.approx((1.81e9 + (1 - every) * plain) / every, rel=0.01)
