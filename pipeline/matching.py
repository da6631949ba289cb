"""One-to-one matching of predicted with true spans by temporal intersection over union (tIoU)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Spans = npt.NDArray[np.int64]  # [n, 2] of [start_us, end_us)


def tiou(a: Spans, b: Spans) -> npt.NDArray[np.float64]:
    """Intersection over union of every span of `a` with every one of `b`, [len(a), len(b)]; 0 where both are empty."""
    shared = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    shared = np.maximum(shared, 0).astype(np.float64)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def match(
    overlap: npt.NDArray[np.float64], least: float, alike: npt.NDArray[np.bool_] | None = None
) -> list[tuple[int, int]]:
    """Pairs (row, column), each row and column in one at most, of tIoU `least` or more.

    As many pairs as possible; among such choices the one with most `alike` pairs, then with the largest sum of tIoU.
    """
    allowed = overlap >= least
    pairs: list[tuple[int, int]] = []
    for rows, columns in _components(allowed):
        part = np.ix_(rows, columns)
        most = min(len(rows), len(columns))
        worth = overlap[part] / (2 * most + 1)  # all of them together are worth less than one alike pair
        worth = (worth + (0 if alike is None else alike[part])) / (2 * most + 1)  # and these less than one pair
        worth = np.where(allowed[part], 1 + worth, 0.0)
        chosen = assign(-worth) if len(rows) <= len(columns) else assign(-worth.T)
        for i, j in enumerate(chosen):
            row, column = (i, j) if len(rows) <= len(columns) else (j, i)
            if allowed[rows[row], columns[column]]:
                pairs.append((rows[row], columns[column]))
    return sorted(pairs)


def assign(cost: npt.NDArray[np.float64]) -> list[int]:
    """The column of each row in the cheapest assignment of all rows to different columns; cost [n, m], n <= m.

    The Hungarian method with potentials (Kuhn 1955, Munkres 1957), O(n² m).
    """
    n, m = cost.shape
    u, v = np.zeros(n + 1), np.zeros(m + 1)
    row_of = np.zeros(m + 1, np.int64)  # rows and columns from 1 on; 0: none
    way = np.zeros(m + 1, np.int64)
    for i in range(1, n + 1):
        row_of[0], at = i, 0
        least = np.full(m + 1, np.inf)
        used = np.zeros(m + 1, np.bool_)
        while row_of[at]:
            used[at] = True
            row = row_of[at]
            free = ~used[1:]
            slack = cost[row - 1] - u[row] - v[1:]
            better = free & (slack < least[1:])
            least[1:][better], way[1:][better] = slack[better], at
            following = 1 + int(np.argmin(np.where(free, least[1:], np.inf)))
            delta = least[following]
            u[row_of[used]] += delta
            v[used] -= delta
            least[~used] -= delta
            at = following
        while at:
            row_of[at] = row_of[way[at]]
            at = int(way[at])
    columns = [0] * n
    for column in range(1, m + 1):
        if row_of[column]:
            columns[row_of[column] - 1] = column - 1
    return columns


def _components(linked: npt.NDArray[np.bool_]) -> list[tuple[list[int], list[int]]]:
    """Rows and columns that hang together by links, without those that have none."""
    columns_of = [np.flatnonzero(row).tolist() for row in linked]
    rows_of = [np.flatnonzero(column).tolist() for column in linked.T]
    seen: set[int] = set()
    found: list[tuple[list[int], list[int]]] = []
    for first, touched in enumerate(columns_of):
        if first in seen or not touched:
            continue
        seen.add(first)
        rows: list[int] = []
        columns: set[int] = set()
        todo = [first]
        while todo:
            row = todo.pop()
            rows.append(row)
            for column in columns_of[row]:
                if column not in columns:
                    columns.add(column)
                    fresh = [r for r in rows_of[column] if r not in seen]
                    seen.update(fresh)
                    todo += fresh
        found.append((sorted(rows), sorted(columns)))
    return found
