from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from lightly_prg.cost import estimate
from lightly_prg.data import describe_data
from lightly_prg.errors import UserError
from lightly_prg.evaluation import Evaluation
from lightly_prg.features import PRGEncoder
from lightly_prg.flow import SchedulerPath, decode, encode
from lightly_prg.models.diffusers_unet import build_diffusers, from_diffusers, load_diffusers
from lightly_prg.recipe import FeatureSpec, OdeSpec, load_recipe, pretrained_recipe
from lightly_prg.run import load

diffusers = pytest.importorskip("diffusers")


def tiny_unet(**options: Any) -> Any:
    torch.manual_seed(0)
    defaults = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return diffusers.UNet2DModel(**{**defaults, **options}).eval()


def ddim(inverse: bool = False, **options: Any) -> Any:
    kind = diffusers.DDIMInverseScheduler if inverse else diffusers.DDIMScheduler
    scheduler = kind(**{"num_train_timesteps": 100, "beta_end": 0.1, "clip_sample": False, **options})
    # Its own float32 table would leave differences of 1e-7, which the network amplifies.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    for name in ("final_alpha_cumprod", "initial_alpha_cumprod"):
        if hasattr(scheduler, name):
            to_one = options.get("set_alpha_to_one", True)
            setattr(scheduler, name, torch.tensor(1.0).double() if to_one else scheduler.alphas_cumprod[0])
    return scheduler


def walk(unet: Any, scheduler: Any, x: Tensor, steps: int) -> list[Tensor]:
    """The states of diffusers' own loop, the first included."""
    scheduler.set_timesteps(steps)
    states = [x]
    for t in scheduler.timesteps:
        states.append(scheduler.step(unet(states[-1], t).sample, t, states[-1]).prev_sample)
    return states


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_unet().double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


VARIANTS = [
    {},
    {"steps_offset": 1},
    {"set_alpha_to_one": False},
    {"set_alpha_to_one": False, "steps_offset": 1},
    {"timestep_spacing": "trailing"},
    {"beta_schedule": "squaredcos_cap_v2"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options.values())) or "default")
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@torch.no_grad()
def test_ddim__is_diffusers_step_for_step(kind: str, options: dict[str, Any], unet: Any, x: Tensor) -> None:
    if kind == "sample":
        options = {**options, "set_alpha_to_one": False}  # its path starts at timestep 0 in any case
    scheduler = ddim(prediction_type=kind, **options)
    velocity = from_diffusers(unet, scheduler)
    assert isinstance(velocity.path, SchedulerPath)
    positions = velocity.path.positions(5)
    theirs = walk(unet, scheduler, x, 5)
    if len(theirs) > len(positions):
        torch.testing.assert_close(theirs.pop(), theirs[-1])  # a step from timestep 0 to its own level
    ours = decode(
        velocity, x, tau_start=positions[-1], tau_end=positions[-2::-1], steps=1, solver="ddim", gradient="full"
    )
    torch.testing.assert_close(ours, torch.stack(theirs[1:]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options.values())) or "default")
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_ddim__is_the_inverse_scheduler_step_for_step(kind: str, options: dict[str, Any], unet: Any, x: Tensor) -> None:
    velocity = from_diffusers(unet, ddim(prediction_type=kind, **options))
    assert isinstance(velocity.path, SchedulerPath)
    positions = velocity.path.positions(5)
    theirs = walk(unet, ddim(inverse=True, prediction_type=kind, **options), x, 5)
    if len(theirs) > len(positions):
        torch.testing.assert_close(theirs[1], theirs[0])  # from timestep 0's level to timestep 0
        del theirs[1]
    ours = encode(velocity, x, tau_start=positions[0], tau_end=positions[1:], steps=1, solver="ddim")
    torch.testing.assert_close(ours, torch.stack(theirs[1:]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("spacing", "steps"), [("linspace", 5), ("linspace", 100), ("trailing", 7)])
@torch.no_grad()
def test_ddim__takes_each_step_of_diffusers_where_they_do_not_meet(
    spacing: str, steps: int, unet: Any, x: Tensor
) -> None:
    # There a step spans 100 // steps timesteps, which need not lead to the next timestep that was chosen.
    scheduler = ddim(timestep_spacing=spacing)
    velocity = from_diffusers(unet, scheduler)
    assert isinstance(velocity.path, SchedulerPath)
    theirs = walk(unet, scheduler, x, steps)
    chosen = scheduler.timesteps.tolist()
    assert velocity.path.positions(steps)[:0:-1] == tuple(velocity.path.position(t) for t in chosen)
    for t, (before, after) in list(zip(chosen, pairwise(theirs), strict=True))[:: max(1, steps // 5)]:
        start, end = velocity.path.position(t), velocity.path.position(max(t - 100 // steps, -1))
        ours = decode(velocity, before, tau_start=start, tau_end=end, steps=1, solver="ddim")
        torch.testing.assert_close(ours, after, rtol=1e-8, atol=1e-8)


@torch.no_grad()
def test_ddim__in_float32(x: Tensor) -> None:
    unet = tiny_unet()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    velocity = from_diffusers(unet, scheduler)
    theirs = walk(unet, scheduler, x.float(), 10)
    assert isinstance(velocity.path, SchedulerPath)
    ours = velocity.path.positions(10)
    found = decode(velocity, x.float(), tau_start=ours[-1], tau_end=0.0, steps=1, solver="ddim")
    assert not found.isnan().any()
    states = decode(velocity, x.float(), tau_start=ours[-1], tau_end=ours[-2::-1], steps=1, solver="ddim")
    torch.testing.assert_close(states, torch.stack(theirs[1:]), rtol=2e-4, atol=2e-4)


@torch.no_grad()
def test_the_general_solvers__share_the_limit_of_ddim(unet: Any, x: Tensor) -> None:
    x = x[:1]
    velocity = from_diffusers(unet, ddim(num_train_timesteps=20, beta_end=0.3))
    limit = decode(velocity, x, steps=40, solver="dopri5", rtol=1e-4, atol=1e-4)
    scale = (limit - x).abs().max().item()
    for solver, efforts in (("ddim", (15, 60)), ("euler", (15, 60)), ("heun2", (5, 20))):
        errors = [(decode(velocity, x, steps=n, solver=solver) - limit).abs().max().item() / scale for n in efforts]
        assert errors[1] < errors[0] / 2.5
        assert errors[1] < 0.05


@pytest.mark.parametrize(
    "scheduler", ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"]
)
def test_the_path__is_the_schedulers_table(scheduler: str) -> None:
    made = getattr(diffusers, scheduler)(beta_schedule="squaredcos_cap_v2")
    path = from_diffusers(tiny_unet(), made).path
    assert isinstance(path, SchedulerPath)
    tau = torch.tensor([path.position(t) for t in range(1000)], dtype=torch.float64)
    levels = made.alphas_cumprod.double()
    torch.testing.assert_close(path.alpha(tau), levels.sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(path.sigma(tau), (1 - levels).sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_velocity__is_diffusers_own_estimate(kind: str, unet: Any, x: Tensor) -> None:
    scheduler = ddim(prediction_type=kind)
    scheduler.set_timesteps(100)
    velocity = from_diffusers(unet, scheduler)
    for t in (0, 40, 99):
        with torch.no_grad():
            theirs = scheduler.step(unet(x, torch.tensor(t)).sample, t, x).pred_original_sample
            tau = (t + 1) / 100
            ours = velocity.path.convert(x, velocity(tau, x), tau, source="velocity", target="denoised")
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    assert velocity.path.tau_min == (0.01 if kind == "sample" else 0.0)


def test_the_network__is_asked_at_its_own_timesteps() -> None:
    seen: list[Tensor] = []
    unet = tiny_unet()
    unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    velocity = from_diffusers(unet, diffusers.DDIMScheduler())
    image = torch.zeros(2, 1, 8, 8)
    for t in (0, 333, 999):
        velocity((t + 1) / 1000, image)
        assert seen[-1].tolist() == [t, t]
    velocity(0.0, image)  # before the first timestep: at the first
    assert seen[-1].tolist() == [0, 0]
    velocity(0.5005, image)
    assert seen[-1].tolist() == pytest.approx([499.5] * 2, abs=1e-3)
    learned = from_diffusers(
        tiny_unet(time_embedding_type="learned", num_train_timesteps=1000), diffusers.DDIMScheduler()
    )
    assert learned(0.5003, image).isfinite().all()


def test_blocks__are_read_by_their_names_in_the_u_net() -> None:
    unet = tiny_unet()
    velocity = from_diffusers(unet, diffusers.DDPMScheduler())
    assert velocity.block_names == (
        "conv_in",
        "down_blocks.0",
        "down_blocks.1",
        "mid_block",
        "up_blocks.0",
        "up_blocks.1",
        "conv_norm_out",
        "conv_out",
    )
    assert velocity.input_shape == (1, 8, 8)
    image = torch.rand(2, 1, 8, 8)
    seen: dict[str, Tensor] = {}
    unet.mid_block.register_forward_hook(lambda module, inputs, output: seen.update(mid_block=output))
    with torch.no_grad():
        unet(image, torch.tensor(99))
        found = velocity.activations(0.1, image, ("mid_block", "down_blocks.0"))
    torch.testing.assert_close(found["mid_block"], seen["mid_block"])
    assert found["down_blocks.0"].shape == (2, 8, 4, 4)
    encoder = PRGEncoder(
        velocity, velocity.path, OdeSpec(solver="ddim", steps=2), FeatureSpec(source="block", block="mid_block")
    )
    assert encoder(image).shape == (2, 16)
    assert encoder.nfe == 3
    names = [name for name, _ in encoder.named_parameters()]
    assert all(any(name.startswith(f"{block}.") for name in names) for block in encoder.blocks)


def test_variance_and_classes() -> None:
    image = torch.rand(2, 1, 8, 8)
    learned = from_diffusers(tiny_unet(out_channels=2), diffusers.DDPMScheduler(variance_type="learned_range"))
    assert learned(0.5, image).shape == image.shape
    conditional = tiny_unet(num_class_embeds=3)
    with pytest.raises(ValueError, match="class-conditional: give the label"):
        from_diffusers(conditional, diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match="knows no classes"):
        from_diffusers(tiny_unet(), diffusers.DDPMScheduler(), label=1)
    first, second = (from_diffusers(conditional, diffusers.DDPMScheduler(), label=k) for k in (0, 2))
    assert not first(0.5, image).allclose(second(0.5, image))
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler is of another kind"):
        from_diffusers(tiny_unet(), diffusers.FlowMatchEulerDiscreteScheduler())


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Saves a pipeline of a tiny network."""

    def save(**options: Any) -> Path:
        folder = tmp_path / "generator"
        scheduler = diffusers.DDPMScheduler(num_train_timesteps=50)
        diffusers.DDPMPipeline(tiny_unet(**options), scheduler).save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize("layout", ["pipeline", "bare"])
def test_loading__gives_the_network_that_was_saved(layout: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved()
    if layout == "bare":
        (folder / "unet").rename(tmp_path / "bare")
        (folder / "scheduler" / "scheduler_config.json").rename(tmp_path / "bare" / "scheduler_config.json")
        folder = tmp_path / "bare"
    velocity = load_diffusers(str(folder))
    image = torch.rand(2, 1, 8, 8)
    again = build_diffusers(json.loads(json.dumps(velocity.origin))).eval()
    assert again.path == velocity.path
    assert not again(0.3, image).allclose(velocity(0.3, image))
    again.load_state_dict(velocity.state_dict())
    unet = tiny_unet()
    for network in (velocity, again):
        torch.testing.assert_close(network.predict(0.3, image), unet(image, torch.tensor(14)).sample)
    assert str(tmp_path) not in json.dumps(velocity.origin)


def test_bad_folders__are_told(saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"There is no folder .*nowhere"):
        load_diffusers(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no unet/config\.json"):
        load_diffusers(str(tmp_path / "empty"))
    folder = saved()
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_diffusers(str(folder))
    weights.unlink()
    with pytest.raises(UserError, match=r"holds no weights: there is no \.safetensors"):
        load_diffusers(str(folder))
    torch.save(tiny_unet().state_dict(), weights.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"model\.bin, and reading that kind of file can run code"):
        load_diffusers(str(folder))
    weights.write_bytes(content)
    config = json.loads((folder / "unet" / "config.json").read_text())
    for changes, message in (
        ({"_class_name": "UNet2DConditionModel"}, "holds a UNet2DConditionModel; a UNet2DModel is needed"),
        ({"block_out_channels": [8, 32]}, "cannot be loaded"),
        ({"layers_per_block": 2}, "do not fit|cannot be loaded"),
        ({"sample_size": [8, 16]}, "square"),
    ):
        (folder / "unet" / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UserError, match=message):
            load_diffusers(str(folder))
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    for name, message in (("EulerScheduler", "'EulerScheduler'"), ("VQDiffusionScheduler", "another kind")):
        scheduler.write_text(json.dumps({"_class_name": name, "num_vec_classes": 4}))
        with pytest.raises(UserError, match=message):
            load_diffusers(str(folder))
    scheduler.unlink()
    with pytest.raises(UserError, match=r"no scheduler_config\.json"):
        load_diffusers(str(folder))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match="pip install diffusers"):
        load_diffusers(str(saved_again(tmp_path, content, config)))


def saved_again(tmp_path: Path, weights: bytes, config: dict[str, Any]) -> Path:
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDPMScheduler"}))
    return folder


def run_cli(*arguments: str) -> Any:
    from lightly_prg.cli import app

    return CliRunner().invoke(app, list(arguments))


def test_the_command__judges_a_generator(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        Evaluation, "round_trip", lambda *_arguments, **_options: None
    )  # long, and tested where it is at home
    folder = saved()
    options = ["data.train_size=200", "method.ode.steps=2", "eval.few_shot=null", "eval.controls=[raw_pixels]"]
    result = run_cli("evaluate", "--from", f"diffusers:{folder}", *options, "--out", "runs/g")
    assert result.exit_code == 0, result.output or result.exception
    described = json.loads((tmp_path / "runs" / "g" / "encoder.json").read_text())
    assert (described["method"], described["nfe"], described["embedding_dim"]) == ("generator", 3, 16)
    assert json.loads((tmp_path / "runs" / "g" / "eval" / "knn.json").read_text())["split"] == "validation"
    for figure in ("samples.png", "trajectory.png"):
        assert (tmp_path / "runs" / "g" / "figures" / figure).is_file()
    # The run stands on its own: the generator's folder is not needed any more.
    images = torch.rand(3, 1, 8, 8)
    recipe = load_recipe("runs/g")
    expected = PRGEncoder(
        (velocity := load_diffusers(str(folder))), velocity.path, recipe.method.ode, recipe.method.feature
    )(images)
    folder.rename(tmp_path / "moved")
    encoder = load("runs/g")
    assert isinstance(encoder, PRGEncoder)
    torch.testing.assert_close(encoder(images), expected)
    assert encoder.path == velocity.path


def test_the_command__tells_what_it_needs(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = saved(in_channels=3, out_channels=3, sample_size=16)

    def refusal(*arguments: str) -> str:
        result = run_cli("evaluate", *arguments)
        assert isinstance(result.exception, UserError), result.output
        return str(result.exception)

    wrong = refusal(f"diffusers:{folder}")
    assert "takes images of 3 x 16 x 16; these have 3 x 8 x 8: data.image_size=16 (or --resize 16)" in wrong
    wrong = refusal("--from", f"diffusers:{folder}", "data.channels=1", "--resize", "16")
    assert "these have 1 x 16 x 16: data.channels=3 makes them so" in wrong
    assert "There is no folder" in refusal("--from", f"diffusers:{tmp_path / 'nowhere'}")
    assert "--weights goes with timm" in refusal("--from", f"diffusers:{folder}", "--weights", "none")
    assert "diffusers:x and runs/y" in refusal("runs/y", "--from", "diffusers:x")
    assert "Say what to evaluate" in refusal()
    assert "Say what to evaluate" in refusal("data.name=digits")
    assert refusal("--from", "net.pth") == "There is no net.pth."
    (tmp_path / "net.pth").touch()
    assert "--from timm:resnet18 --weights net.pth" in refusal("--from", "net.pth")
    assert "There is no run folder" in refusal("--from", "runs/missing")
    assert "has no block 'nothing'" in refusal(
        f"diffusers:{folder}", "--resize", "16", "method.feature.block=nothing", "--out", "runs/n"
    )
    assert not (tmp_path / "runs").exists()


def test_channels_and_size__come_from_the_generator_and_the_option(saved: Callable[..., Path]) -> None:
    folder = saved(in_channels=3, out_channels=3)
    recipe = pretrained_recipe(f"diffusers:{folder}", ["eval.split=test"], resize=8)
    assert (recipe.data.channels, recipe.data.image_size, recipe.name) == (3, 8, "diffusers-generator")
    assert recipe.method.ode.solver == "ddim"
    cost = estimate(recipe, describe_data(recipe.data))
    assert cost.nfe == 9
    assert cost.steps == 0
    assert cost.parameters == sum(p.numel() for p in tiny_unet(in_channels=3, out_channels=3).parameters())
    assert cost.forward_macs > 100_000


def test_a_network_of_ones_own__is_no_module_of_diffusers() -> None:
    with pytest.raises(ValueError, match="UNet2DModel is needed, got Identity; velocity_from takes any module"):
        from_diffusers(nn.Identity(), diffusers.DDPMScheduler())
