"""The ``method`` section of a recipe: one model for each self-supervised method and each of its networks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from lightly_prg.recipe_auxiliary import AuxiliaryRecipe
from lightly_prg.recipe_feature import FeatureSpec, NetworkFeature, OdeSpec
from lightly_prg.recipe_section import Integer, Number, Positive, Section
from lightly_prg.recipe_views import AugmentRecipe, CropRecipe, ProjectionRecipe, ViewsRecipe


class UNetRecipe(Section):
    """The improved-diffusion U-Net; see ``lightly_prg.models.UNet``."""

    name: Literal["unet"]
    channels: Positive = 128
    multipliers: tuple[Positive, ...] = (1, 2, 2, 2)
    blocks: Positive = 3
    attention: tuple[Positive, ...] = (16, 8)
    middle_attention: bool = True
    heads: Positive = 4
    dropout: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.0
    patch_size: Positive = 1
    tau_scale: Annotated[Number, Field(gt=0.0)] = 1000.0


class DiTRecipe(Section):
    """The diffusion transformer; see ``lightly_prg.models.DiT``."""

    name: Literal["dit"]
    patch_size: Positive = 4
    width: Positive = 384
    depth: Positive = 12
    heads: Positive = 6
    mlp_ratio: Annotated[Number, Field(gt=0.0)] = 4.0
    tau_scale: Annotated[Number, Field(gt=0.0)] = 1000.0


class ImportRecipe(Section):
    """A velocity network of your own: ``target`` names a class or function that builds it."""

    name: Literal["import"]
    target: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]  # "my_package.my_module:MyVelocity"
    kwargs: dict[str, Any] = Field(default_factory=dict)


BackboneRecipe = Annotated[UNetRecipe | DiTRecipe | ImportRecipe, Field(discriminator="name")]


class PRGRecipe(Section):
    """Pretrained Reversible Generation (arXiv 2412.01787)."""

    name: Literal["prg"]
    path: Literal["linear", "trigonometric", "variance_preserving"] = "linear"
    coupling: Literal["independent", "optimal_transport"] = "independent"
    tau_sampling: Literal["uniform", "logit_normal"] = "uniform"
    backbone: BackboneRecipe = UNetRecipe(name="unet")
    ode: OdeSpec = OdeSpec()
    feature: FeatureSpec = FeatureSpec(source="block", block="middle")
    augment: AugmentRecipe = AugmentRecipe()
    auxiliary: AuxiliaryRecipe | None = None


class ResNetRecipe(Section):
    """Lightly's ResNet for small images; see ``lightly_prg.models.ResNet``."""

    name: Literal["resnet"] = "resnet"
    depth: Literal[9, 18, 34, 50, 101, 152] = 18
    width: Annotated[Number, Field(gt=0.0)] = 1.0  # 1: 64 channels in the first stage
    stem_stride: Positive = 1  # 2 quarters the cost, as patch_size 2 does for the U-Net


class ViTRecipe(Section):
    """A plain vision transformer with fixed sine-cosine positions; see ``lightly_prg.models.ViT``."""

    name: Literal["vit"] = "vit"
    patch_size: Positive = 4
    width: Positive = 384
    depth: Positive = 12
    heads: Positive = 6
    mlp_ratio: Annotated[Number, Field(gt=0.0)] = 4.0


class SimCLRRecipe(Section):
    """SimCLR (arXiv 2002.05709), put together from Lightly's modules."""

    name: Literal["simclr"]
    backbone: ResNetRecipe = ResNetRecipe()
    projection: ProjectionRecipe = ProjectionRecipe()
    temperature: Annotated[Number, Field(gt=0.0)] = 0.5  # 0.5 for small images and batches, 0.1 for ImageNet
    feature: NetworkFeature = NetworkFeature()
    augment: ViewsRecipe = ViewsRecipe()


class DecoderRecipe(Section):
    """MAE's decoder, which is thrown away after pretraining."""

    width: Positive = 192
    depth: Positive = 4
    heads: Positive = 3


class MAERecipe(Section):
    """Masked autoencoder (arXiv 2111.06377), put together from Lightly's modules."""

    name: Literal["mae"]
    backbone: ViTRecipe = ViTRecipe()
    decoder: DecoderRecipe = DecoderRecipe()
    mask_ratio: Annotated[Number, Field(gt=0.0, lt=1.0)] = 0.75
    normalize_target: bool = True  # each patch to mean 0 and variance 1: the paper's better variant
    feature: NetworkFeature = NetworkFeature()
    augment: CropRecipe = CropRecipe()


class PretrainedRecipe(Section):
    """A network that was trained elsewhere; there is nothing left to train."""

    name: Literal["pretrained"]
    source: Annotated[str, Field(pattern=r"^(timm|torchvision):[\w.\-/]+$")]  # "timm:resnet18", "torchvision:resnet18"
    weights: str = "default"  # "default": the library's own; a file: .safetensors or .pth; "none": random
    resize: Positive | None = None  # images are enlarged to this side first; None: as they are
    feature: NetworkFeature = NetworkFeature()


class GeneratorRecipe(Section):
    """A diffusion model that was trained elsewhere; there is nothing left to train."""

    name: Literal["generator"]
    source: Annotated[str, Field(pattern=r"^diffusers:.+$")]  # "diffusers:FOLDER", see lightly_prg.diffusers_folder
    label: Annotated[Integer, Field(ge=0)] | None = None  # of a class-conditional one: what every image is taken for
    ode: OdeSpec = OdeSpec(solver="ddim")
    feature: FeatureSpec = FeatureSpec(source="block", block="mid_block")


MethodRecipe = Annotated[
    PRGRecipe | SimCLRRecipe | MAERecipe | PretrainedRecipe | GeneratorRecipe,
    Field(discriminator="name"),
]
