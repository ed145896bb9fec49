"""How far generated images are from real ones, in the eyes of a classifier of the same images."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lightly_prg.data.image_set import ImageSet
from lightly_prg.diagnostics import sample
from lightly_prg.errors import UserError
from lightly_prg.eval import embed
from lightly_prg.eval.frechet import frechet_distance
from lightly_prg.evaluation import Evaluation
from lightly_prg.features import PRGEncoder
from lightly_prg.files import read_json
from lightly_prg.randomness import generator_for
from lightly_prg.run import Run, load


def measure_sample_distance(
    evaluation: Evaluation,
    judge: Path,
    *,
    count: int = 1000,
    steps: int = 16,
    solver: str = "heun2",
    split: str | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """The Fréchet distance of samples to training images; writes eval/frechet.json.

    Inception's features say little of small or grey images; a network trained on the very set says more. The distance
    between real images of the split and the same training images is the floor: what a perfect generator would get.

    Args:
        evaluation: The run that generates.
        judge: A run whose encoder gives the features, such as a fine-tuned one; the same for all runs compared.
        count: Images of each kind.
        steps: Solver steps from noise to data.
        solver: A solver of ``lightly_prg.flow.SOLVERS``.
        split: Where the real images of the floor come from; default the recipe's.
        trust: Whether the judge may run code of its own.

    Returns:
        ``distance``, ``floor`` and what they were measured with.

    Raises:
        UserError: If the run has no flow, the judge takes other images, or there are fewer images than ``count``.
    """
    generator, split = (
        evaluation.prg,
        evaluation.unfitted_split(split, "Samples and other real images are compared with"),
    )
    if count < 2:
        raise UserError(f"count is {count}; at least 2 images are compared.")
    features = load(judge, trust=trust).to(evaluation.target)
    if features.input_shape != generator.input_shape:
        raise UserError(
            f"{judge} takes images of shape {features.input_shape}; this run generates {generator.input_shape}."
        )
    real = {name: evaluation.some_images(name, count) for name in dict.fromkeys(("train", split))}
    short = [name for name, part in real.items() if len(part) < count]
    if short:
        raise UserError(f"The {short[0]} split has {len(real[short[0]])} images; {count} were asked for.")
    seed = evaluation.run.recipe.seed
    with evaluation.console.task(f"generating {count} images", 1) as update:
        generated = generated_images(generator, count, steps=steps, solver=solver, seed=seed)
        update(1)

    def of(part: ImageSet) -> Any:
        return embed(
            features, part, batch_size=evaluation.run.recipe.eval.batch_size, device=str(evaluation.target)
        ).features

    reference = of(real["train"])
    result = {
        "encoder": "run",
        "split": split,
        "distance": frechet_distance(of(generated), reference),
        "floor": frechet_distance(of(real[split]), reference),
        "dimensions": reference.shape[1],
        "judge": Run.open(judge).description["name"],
        "judge_recipe_sha256": Run.open(judge).description["recipe_sha256"],
        "options": {"count": count, "steps": steps, "solver": solver, "judge": _judge_of(judge)},
        "seed": seed,
        "recipe_sha256": evaluation.description["recipe_sha256"],
    }
    evaluation.run.write_result("frechet", result, own_options=_is_plain(evaluation, result))
    return result


def _judge_of(judge: str | Path) -> int:
    return Run.open(judge).weights_crc32


def _is_plain(evaluation: Evaluation, result: Mapping[str, Any]) -> bool:
    """Whether a result takes the plain file name: the first, and later ones of the same options."""
    file = evaluation.run.folder / "eval" / "frechet.json"
    with suppress(UserError):
        there = read_json(file)
        return all(there.get(key) == result[key] for key in ("options", "split"))
    return True


def generated_images(generator: PRGEncoder, count: int, *, steps: int, solver: str, seed: int) -> ImageSet:
    """Samples as a set of images without labels, from noise that depends on the seed alone.

    Args:
        generator: Its network and path are used.
        count: Images.
        steps: Solver steps from noise to data.
        solver: A solver of ``lightly_prg.flow.SOLVERS``.
        seed: Of the noise.
    """
    images = sample(generator, count, steps=steps, solver=solver, generator=generator_for(seed, "frechet"))
    return ImageSet(
        (images * 255).round().to(torch.uint8),
        labels=None,
        names=[f"sample {index}" for index in range(count)],
    )
