"""How good are embeddings, judged without labels: RankMe and alpha-ReQ, from the spectrum of the features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightly_prg.eval.spectrum import eigenvalues

POWER_LAW_RANKS = (3, 100)
"""The eigenvalues that alpha-ReQ fits: from the third to the hundredth. The first few stand for the mean brightness and
the like and follow no power law."""


def rankme(features: npt.NDArray[np.floating]) -> float:
    """RankMe [0], the effective rank of a matrix of embeddings: exp of the entropy of its singular values.

    ``exp(-sum p_k log p_k)`` with ``p_k = s_k / sum s``, between 1 (all embeddings on one line) and min(N, D) (every
    direction used alike). As in the paper the features are not centred; its epsilon, which keeps log away from 0, is
    not needed, since 0 log 0 counts as 0. More dimensions allow a higher value, so that embeddings of different size
    are compared with care.

    - [0]: RankMe: Assessing the downstream performance of pretrained self-supervised representations by their rank,
      2022, https://arxiv.org/abs/2210.02885 (equation 1)

    Args:
        features: ``(N, D)``.

    Returns:
        The effective rank; 0 where every feature is 0.

    Raises:
        ValueError: If there is no feature.
        FloatingPointError: If a feature is not finite.

    Example:
        >>> round(rankme(np.eye(8)), 6)
        8.0
    """
    singular = np.sqrt(eigenvalues(features, centre=False))
    if not singular.any():
        return 0.0
    shares = singular[singular > 0] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alpha_req(features: npt.NDArray[np.floating], *, ranks: tuple[int, int] = POWER_LAW_RANKS) -> float | None:
    """alpha-ReQ [0]: the exponent of the power law that the spectrum of the features follows.

    The slope of a straight line through log(eigenvalue of the covariance) over log(rank), with its sign turned. Ranks
    are weighted by 1 / rank, so that each stretch of the logarithmic axis counts alike. Good representations were found
    near 1: a larger exponent keeps few directions, a smaller one many directions of noise. ``closeness_to_one`` makes
    a score of it.

    - [0]: alpha-ReQ: Assessing Representation Quality in Self-Supervised Learning by measuring eigenspectrum decay,
      NeurIPS 2022

    Args:
        features: ``(N, D)``.
        ranks: First and last eigenvalue of the fit, counted from 1; what lies beyond the spectrum is left out.

    Returns:
        The exponent; None where fewer than three eigenvalues above rounding lie in the range.

    Raises:
        ValueError: If there is no feature.
        FloatingPointError: If a feature is not finite.
    """
    spectrum = eigenvalues(features, centre=True)
    first, last = ranks
    rank = np.arange(1, len(spectrum) + 1)
    used = (rank >= first) & (rank <= last) & (spectrum > 0)
    if used.sum() < 3:
        return None
    x, y, weight = np.log(rank[used]), np.log(spectrum[used]), 1.0 / rank[used]
    x = x - np.average(x, weights=weight)
    y = y - np.average(y, weights=weight)
    return float(-(weight * x * y).sum() / (weight * x * x).sum())


def closeness_to_one(alpha: float | None) -> float | None:
    """The score of an exponent: 0 for 1, below 0 for all others, None for none."""
    return None if alpha is None else -abs(alpha - 1.0)
