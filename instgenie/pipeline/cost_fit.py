"""Least squares without negative coefficients, and the fits of blocks and loads by them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from instgenie.pipeline.cost import BlockFit, LoadFit, SegmentShape, block_features

Floats = NDArray[np.float64]

# What explains most comes first: of few points only the first columns are fitted. Indices into `block_features`.
_BY_WORTH = (1, 0, 2, 3)  # rows, 1, pairs, context


def nonnegative_fit(columns: Floats, values: Floats) -> Floats:
    """Coefficients from 0 up with the least sum of squared relative errors.

    Of relative ones, for what takes 1 ms is to be foretold as well as what takes 100.

    The best ones are the plain least squares of some of the columns. With four there are but 16 choices: all are tried.

    Args:
        columns: [n, k], from 0 up.
        values: [n], above 0.
    Returns:
        [k]; 0 for columns that do not help.
    """
    sizes = columns.max(axis=0)
    sizes[sizes == 0] = 1.0  # an empty column: whatever its coefficient, 0 is chosen
    weighted = columns / sizes / values[:, None]
    best, least = np.zeros(columns.shape[1]), float(len(values))  # of all coefficients 0
    for count in range(1, columns.shape[1] + 1):
        for chosen in combinations(range(columns.shape[1]), count):
            some = list(chosen)
            found = np.linalg.lstsq(weighted[:, some], np.ones(len(values)))[0]
            error = float(((weighted[:, some] @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(columns.shape[1]), error
                best[some] = found
    fitted: Floats = best / sizes
    return fitted


def r_squared(values: Floats, predicted: Floats) -> float:
    """The share of the values' variance that is explained: 1 is all, below 0 is worse than their mean."""
    spread = float(((values - values.mean()) ** 2).sum())
    return 1 - float(((values - predicted) ** 2).sum()) / spread if spread else 0.0


def fit_block(measured: Sequence[tuple[Sequence[SegmentShape], float]], most_columns: int = 4) -> BlockFit:
    """Costs of a kind of block, or of whatever else takes time by the same things.

    There has to be a measurement more than coefficients for R^2 to mean something: of few ones fewer coefficients are
    fitted, and of less than three R^2 is 0.

    Args:
        measured: shapes, and milliseconds above 0 of a block that computed them; at least one.
        most_columns: coefficients that are fitted: of rows, base, pairs and context tokens the first ones.
    """
    columns = np.array([block_features(shapes) for shapes, _ in measured], np.float64)
    values = np.array([ms for _, ms in measured], np.float64)
    chosen = list(_BY_WORTH[: max(1, min(most_columns, len(values) - 1))])
    fitted = np.zeros(len(_BY_WORTH))
    fitted[chosen] = nonnegative_fit(columns[:, chosen], values)
    quality = r_squared(values, columns @ fitted) if len(values) > 2 else 0.0
    base_ms, row_ms, pair_ms, context_ms = fitted.tolist()
    return BlockFit(base_ms, row_ms, pair_ms, context_ms, quality, len(values))


def fit_load(measured: Sequence[tuple[int, float]]) -> LoadFit:
    """Costs of loads.

    Args:
        measured: bytes, and milliseconds above 0 of loading them; at least one.
    """
    columns = np.array([(1.0, num_bytes) for num_bytes, _ in measured])
    base_ms, byte_ms = nonnegative_fit(columns, np.array([ms for _, ms in measured])).tolist()
    return LoadFit(base_ms, byte_ms)
