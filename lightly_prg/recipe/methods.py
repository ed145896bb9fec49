"""The ``method`` section of a recipe: one model for each self-supervised method and each of its networks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from lightly_prg.recipe.auxiliary import AuxiliaryRecipe
from lightly_prg.recipe.feature import FeatureSpec, NetworkFeature, OdeSpec
from lightly_prg.recipe.section import Integer, Number, Positive, Section
from lightly_prg.recipe.views import AugmentRecipe, CropRecipe, ProjectionRecipe, ViewsRecipe


class UNetRecipe(Section):
    """The improved-diffusion U-Net; see ``lightly_prg.models.UNet``.

    Attributes:
        name: ``unet``.
        channels: Of the first resolution.
        multipliers: Of the channels, one for each resolution, each half of the one before.
        blocks: Residual blocks at each resolution.
        attention: Sides of feature maps at which blocks have self-attention; folding makes maps smaller.
        middle_attention: Whether the middle has.
        heads: Of an attention.
        dropout: In residual blocks.
        patch_size: Squares of so many pixels are folded into channels first; 2 quarters the cost.
        tau_scale: tau in [0, 1] is multiplied by it before its sine-cosine embedding.
    """

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
    """The diffusion transformer; see ``lightly_prg.models.DiT``.

    Attributes:
        name: ``dit``.
        patch_size: Side of a token in pixels.
        width: Of a token.
        depth: Transformer blocks.
        heads: Of an attention.
        mlp_ratio: Width of the hidden layer over that of a token.
        tau_scale: tau in [0, 1] is multiplied by it before its sine-cosine embedding.
    """

    name: Literal["dit"]
    patch_size: Positive = 4
    width: Positive = 384
    depth: Positive = 12
    heads: Positive = 6
    mlp_ratio: Annotated[Number, Field(gt=0.0)] = 4.0
    tau_scale: Annotated[Number, Field(gt=0.0)] = 1000.0


class ImportRecipe(Section):
    """A velocity network of your own: ``target`` names a class or function that builds it.

    Attributes:
        name: ``import``; needs ``--trust``.
        target: ``my_package.my_module:MyVelocity``.
        kwargs: What it is called with.
    """

    name: Literal["import"]
    target: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
    kwargs: dict[str, Any] = Field(default_factory=dict)


BackboneRecipe = Annotated[UNetRecipe | DiTRecipe | ImportRecipe, Field(discriminator="name")]


class PRGRecipe(Section):
    """Pretrained Reversible Generation (arXiv 2412.01787).

    Attributes:
        name: ``prg``.
        path: From data to noise: straight lines, or one of diffusion's; ``own``: that of a backbone which declares one.
        coupling: How noise is assigned to images; ``optimal_transport`` within a batch makes paths straighter.
        tau_sampling: From which law training draws tau. ``logit_normal`` and ``mode`` favour the middle of the path;
            ``mode`` keeps more of the ends, on which likelihood depends.
        backbone: The velocity network.
        ode: How the embedding's ODE is solved.
        feature: Where the embedding is read.
        augment: What the generator is trained on.
        auxiliary: A second loss, on an activation; null: none.
    """

    name: Literal["prg"]
    path: Literal["linear", "trigonometric", "variance_preserving", "own"] = "linear"
    coupling: Literal["independent", "optimal_transport"] = "independent"
    tau_sampling: Literal["uniform", "logit_normal", "mode"] = "uniform"
    backbone: BackboneRecipe = UNetRecipe(name="unet")
    ode: OdeSpec = OdeSpec()
    feature: FeatureSpec = FeatureSpec(source="block", block="middle")
    augment: AugmentRecipe = AugmentRecipe()
    auxiliary: AuxiliaryRecipe | None = None


class ResNetRecipe(Section):
    """Lightly's ResNet for small images; see ``lightly_prg.models.resnet.ResNet``.

    Attributes:
        name: ``resnet``.
        depth: Layers.
        width: Factor of all channels; 1: 64 in the first stage.
        stem_stride: 2 quarters the cost, as ``patch_size: 2`` does for the U-Net.
    """

    name: Literal["resnet"] = "resnet"
    depth: Literal[9, 18, 34, 50, 101, 152] = 18
    width: Annotated[Number, Field(gt=0.0)] = 1.0
    stem_stride: Positive = 1


class ViTRecipe(Section):
    """A plain vision transformer with fixed sine-cosine positions; see ``lightly_prg.models.vit.ViT``.

    Attributes:
        name: ``vit``.
        patch_size: Side of a token in pixels.
        width: Of a token.
        depth: Transformer blocks.
        heads: Of an attention.
        mlp_ratio: Width of the hidden layer over that of a token.
    """

    name: Literal["vit"] = "vit"
    patch_size: Positive = 4
    width: Positive = 384
    depth: Positive = 12
    heads: Positive = 6
    mlp_ratio: Annotated[Number, Field(gt=0.0)] = 4.0


class SimCLRRecipe(Section):
    """SimCLR (arXiv 2002.05709), put together from Lightly's modules.

    Attributes:
        name: ``simclr``.
        backbone: The encoder.
        projection: The head that the loss sees.
        temperature: Of NT-Xent: 0.5 for small images and long training, 0.1 for ImageNet.
        feature: Where the embedding is read.
        augment: The two views.
    """

    name: Literal["simclr"]
    backbone: ResNetRecipe = ResNetRecipe()
    projection: ProjectionRecipe = ProjectionRecipe()
    temperature: Annotated[Number, Field(gt=0.0)] = 0.5
    feature: NetworkFeature = NetworkFeature()
    augment: ViewsRecipe = ViewsRecipe()


class DecoderRecipe(Section):
    """MAE's decoder, which is thrown away after pretraining.

    Attributes:
        width: Of a token.
        depth: Transformer blocks.
        heads: Of an attention.
    """

    width: Positive = 192
    depth: Positive = 4
    heads: Positive = 3


class MAERecipe(Section):
    """Masked autoencoder (arXiv 2111.06377), put together from Lightly's modules.

    Attributes:
        name: ``mae``.
        backbone: The encoder.
        decoder: What reconstructs.
        mask_ratio: Share of the tokens that is hidden.
        normalize_target: Each patch to mean 0 and variance 1: the paper's better variant.
        feature: Where the embedding is read.
        augment: The one view.
    """

    name: Literal["mae"]
    backbone: ViTRecipe = ViTRecipe()
    decoder: DecoderRecipe = DecoderRecipe()
    mask_ratio: Annotated[Number, Field(gt=0.0, lt=1.0)] = 0.75
    normalize_target: bool = True
    feature: NetworkFeature = NetworkFeature()
    augment: CropRecipe = CropRecipe()


class PretrainedRecipe(Section):
    """A network that was trained elsewhere; there is nothing left to train.

    Attributes:
        name: ``pretrained``.
        source: ``timm:resnet18``, ``torchvision:resnet18``.
        weights: ``default``: the library's own; ``none``: random; or a file.
        resize: Images are enlarged to this side first; null: as they are.
        feature: Where the embedding is read.
    """

    name: Literal["pretrained"]
    source: Annotated[str, Field(pattern=r"^(timm|torchvision):[\w.\-/]+$")]
    weights: str = "default"
    resize: Positive | None = None
    feature: NetworkFeature = NetworkFeature()


class GeneratorRecipe(Section):
    """A diffusion model that was trained elsewhere; there is nothing left to train.

    Attributes:
        name: ``generator``.
        source: ``diffusers:FOLDER``, see ``lightly_prg.diffusers_folder``.
        label: Of a class-conditional one: what every image is taken for.
        ode: How the embedding's ODE is solved.
        feature: Where the embedding is read.
    """

    name: Literal["generator"]
    source: Annotated[str, Field(pattern=r"^diffusers:.+$")]
    label: Annotated[Integer, Field(ge=0)] | None = None
    ode: OdeSpec = OdeSpec(solver="ddim")
    feature: FeatureSpec = FeatureSpec(source="block", block="mid_block")


MethodRecipe = Annotated[
    PRGRecipe | SimCLRRecipe | MAERecipe | PretrainedRecipe | GeneratorRecipe,
    Field(discriminator="name"),
]
