"""After a training by several processes: all of them embed what the evaluators will ask for."""

from __future__ import annotations

import torch
import torch.distributed as dist

from lightly_prg.eval.shared import embed_shared
from lightly_prg.evaluation import EncoderName, Evaluation
from lightly_prg.training.processes import is_first_process


def embed_by_all(evaluation: Evaluation) -> None:
    """Embeds a run's images by all processes that trained it, each image once; the cache then holds them.

    Does nothing where there is one process, or where one of them does not see the run's folder.

    Args:
        evaluation: Of the run, in every process.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    on_gpu = dist.get_backend() == "nccl"
    seen = torch.tensor([evaluation.run.is_trained], dtype=torch.int32, device="cuda" if on_gpu else "cpu")
    dist.all_reduce(seen, op=dist.ReduceOp.MIN)
    if not bool(seen):
        return
    recipe = evaluation.run.recipe.eval
    encoders: tuple[EncoderName, ...] = ("run", *(name for name in recipe.controls if name == "random_network"))
    splits = ["train", "validation"] if recipe.split == "validation" else ["train", "validation", "test"]
    for name in encoders:
        encoder = evaluation.encoder(name)
        for split in splits:
            images = getattr(evaluation.splits, split)
            if len(images) == 0:
                continue
            title = f"embedding {len(images)} {split} images with {dist.get_world_size()} processes"
            with evaluation.console.task(title, len(images)) as update:
                embed_shared(
                    encoder,
                    images,
                    **evaluation.embedding_options(name),
                    progress=update if is_first_process() else None,
                )
