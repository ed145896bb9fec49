"""PRG's flow-matching loss as a part of the loss of fine-tuning."""

from __future__ import annotations

from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.eval.finetuning.loop import ExtraLoss
from lightly_prg.features import PRGEncoder
from lightly_prg.flow import FlowMatchingLoss
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import Recipe


def kept_flow_matching(beta: float, *, encoder: nn.Module, recipe: Recipe) -> ExtraLoss | None:
    """The paper's loss keeps ``beta`` times the flow-matching loss, so that the flow stays one (arXiv 2412.01787).

    Args:
        beta: Weight beside the cross-entropy.
        encoder: What is fine-tuned; its path is the loss's.
        recipe: Of its run, whose coupling and law of positions the loss has; noise and positions, drawn anew for each
            step, depend on its seed.

    Returns:
        What ``lightly_prg.eval.finetune`` takes as ``extra_loss``; None where ``beta`` is 0.

    Raises:
        UserError: If the encoder has no flow.
    """
    if beta == 0.0:
        return None
    if not isinstance(encoder, PRGEncoder):
        raise UserError("finetune.beta weighs PRG's flow-matching loss; this method has none.")
    trained = {key: getattr(recipe.method, key) for key in ("coupling", "tau_sampling") if hasattr(recipe.method, key)}
    criterion = FlowMatchingLoss(path=encoder.path, **trained)

    def loss(model: nn.Module, images: Tensor, step: int) -> Tensor:
        assert isinstance(model, PRGEncoder)
        generator = generator_for(recipe.seed, "finetune", step, device=images.device)
        value: Tensor = criterion(model.velocity, model.normalize(images), generator=generator)
        return beta * value

    return loss
