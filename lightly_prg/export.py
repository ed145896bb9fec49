"""Writing embeddings to a file that other tools read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightly_prg.errors import UserError
from lightly_prg.eval import Embeddings
from lightly_prg.files import replacing


def write_embeddings(path: Path, embeddings: Embeddings, class_names: Sequence[str]) -> None:
    """Writes features, labels, class names and file names.

    Args:
        path: ``*.npz`` (arrays ``embeddings`` (N, D), ``labels``, ``names``, ``class_names``) or ``*.parquet`` (one row
            for each image: ``name``, ``label``, ``class_name``, ``embedding``; needs pyarrow).
        embeddings: What is written.
        class_names: Names of the labels.

    Raises:
        UserError: If the ending is neither, or pyarrow is missing.
    """
    if path.suffix == ".npz":
        with replacing(path) as temporary:
            np.savez(
                temporary,
                embeddings=embeddings.features,
                labels=embeddings.labels,
                names=np.array(embeddings.names),
                class_names=np.array(class_names),
            )
    elif path.suffix == ".parquet":
        _write_parquet(path, embeddings, class_names)
    else:
        raise UserError(f"{path} ends in {path.suffix!r}; embeddings are written as .npz or .parquet.")


def _write_parquet(path: Path, embeddings: Embeddings, class_names: Sequence[str]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError("Parquet needs pyarrow: pip install pyarrow, or write .npz.") from None
    dimension = embeddings.features.shape[1]
    flat = pa.array(np.ascontiguousarray(embeddings.features).reshape(-1))
    table = pa.table(
        {
            "name": list(embeddings.names),
            "label": embeddings.labels,
            "class_name": [class_names[label] if label >= 0 else None for label in embeddings.labels],
            "embedding": pa.FixedSizeListArray.from_arrays(flat, dimension),
        }
    )
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
