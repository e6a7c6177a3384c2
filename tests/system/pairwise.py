"""Few combinations in which every pair of values of two parameters occurs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairwise(parameters: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Cover all pairs greedily; the same list at every call."""
    indexes = [range(len(values)) for values in parameters]
    wanted = {
        (a, i, b, j)
        for a, b in combinations(range(len(parameters)), 2)
        for i, j in product(indexes[a], indexes[b])
    }
    rows: list[tuple[int, ...]] = []
    while wanted:
        best = max(product(*indexes), key=lambda row: (len(_pairs(row) & wanted), row))
        wanted -= _pairs(best)
        rows.append(best)
    return [
        tuple(values[index] for values, index in zip(parameters, row, strict=True)) for row in rows
    ]


def _pairs(row: tuple[int, ...]) -> set[tuple[int, int, int, int]]:
    return {(a, row[a], b, row[b]) for a, b in combinations(range(len(row)), 2)}
