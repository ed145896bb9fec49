"""What one frozen feature is worth: read as a scan reads it, judged in full by k-NN and linear probe."""

from __future__ import annotations

from typing import Any

from lightly_prg.data.image_set import ImageSet
from lightly_prg.eval import Embeddings, embed, evaluate_knn, evaluate_linear
from lightly_prg.evaluation import Evaluation
from lightly_prg.features import PRGEncoder
from lightly_prg.features.cells import Row
from lightly_prg.features.grid import GridEncoder
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.scan.features import ScanImages, read_group


def read_block(
    evaluation: Evaluation,
    encoder: PRGEncoder | NetworkEncoder,
    images: ScanImages,
    *,
    block: str | None,
    pool: str,
    taus: tuple[float, ...],
    steps: int | None = None,
    noised: bool = False,
) -> tuple[Embeddings, Embeddings]:
    """The activation of a block at one position, or at several behind each other.

    Args:
        evaluation: For seed, batch size and device.
        encoder: Whose network is read, such as the trained or the random one.
        images: To fit on and to judge.
        block: Its name.
        pool: How it is pooled.
        taus: Positions on the path.
        steps: Of the solver to the last of them, as a scan tells with its choice: with fewer, other states are read
            than those that were chosen. Default: the fewest that put every tau on an even grid and are at least the
            encoder's own.
        noised: Read at noised images in place of states of the ODE.

    Returns:
        Of the images to fit on, and of those that are judged.
    """
    grid = GridEncoder(
        encoder,
        (Row("block", block, pool),),
        taus=taus,
        steps=steps or None,  # 0 at the data, where nothing is solved
        noised=noised,
        seed=evaluation.run.recipe.seed,
    )
    options: dict[str, Any] = {"batch_size": evaluation.run.recipe.eval.batch_size, "device": str(evaluation.target)}
    *_, last = read_group(grid, grid.rows, images, **options)  # of several taus, all together come last
    assert last.judged is not None
    return last.bank, last.judged


def judge_encoder(
    evaluation: Evaluation, encoder: PRGEncoder | NetworkEncoder, *, bank: ImageSet, judged: ImageSet
) -> dict[str, Any]:
    """What an encoder's own feature is worth, see ``judge_frozen``.

    Args:
        evaluation: For seed, batch size and device.
        encoder: The run's, or the same network read elsewhere.
        bank: To fit on.
        judged: To judge.
    """
    options: dict[str, Any] = {"batch_size": evaluation.run.recipe.eval.batch_size, "device": str(evaluation.target)}
    train, test = (embed(encoder, part, **options) for part in (bank, judged))
    return judge_frozen(evaluation, train, test)


def judge_frozen(evaluation: Evaluation, train: Embeddings, judged: Embeddings) -> dict[str, Any]:
    """k-NN (k = 20) and linear probe, whose penalty is chosen on a tenth of the training features.

    Returns:
        ``knn`` and ``linear`` in percent, ``embedding_dim`` and ``nfe``.
    """
    classes, seed = evaluation.splits.train.num_classes, evaluation.run.recipe.seed
    linear = evaluate_linear(train, judged, seed=seed, num_classes=classes, device=str(evaluation.target))
    return {
        "knn": evaluate_knn(train, judged, num_classes=classes, device=evaluation.target).top1,
        "linear": linear.top1,
        "embedding_dim": train.embedding_dim,
        "nfe": train.nfe,
    }
