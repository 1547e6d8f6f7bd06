"""The dense way: where most pairs survive, a float64 matrix product decides all of them.

It is exact for the same reason as the refinement is, and its memory is bounded by the tile.
"""

from __future__ import annotations

import torch

from clipgap.kernels.gpu.panels import Panel, cut
from clipgap.kernels.gpu.steps import BEHIND, Candidates

TILE_ROWS = 2048
TILE_COLUMNS = 16_384


class RowWinners:
    """Best score and margin of rows, with the lowest test row that has them."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.score = torch.full((rows,), -torch.inf, dtype=torch.float64, device=device)
        self.column = torch.full((rows,), BEHIND, dtype=torch.int32, device=device)

    def take(self, here: slice, values: torch.Tensor, given: torch.Tensor) -> None:
        best = values.amax(1)
        holds = values == best[:, None]
        column = torch.where(holds, given[None, :], BEHIND).amin(1)
        score, held = self.score[here], self.column[here]
        wins = (best > score) | ((best == score) & (column < held))
        self.score[here] = torch.where(wins, best, score)
        self.column[here] = torch.where(wins, column, held)


def decide(
    rows: torch.Tensor,
    ids: torch.Tensor,
    panel: Panel,
    k: int,
    best: RowWinners,
    margin: RowWinners | None,
    candidates: Candidates,
) -> None:
    """Decide rows × panel; leaves at most k candidates a column for the merge.

    The candidates of a column are the k best of these rows and of those left by earlier tiles, the
    lowest ids first among equals, as the lists want them.
    """
    count, candidate_score, candidate_id = candidates
    count.zero_()
    for top, bottom in cut(panel.count, TILE_COLUMNS):
        held_score = torch.empty((0, bottom - top), dtype=torch.float64, device=rows.device)
        held_id = torch.empty((0, bottom - top), dtype=torch.int64, device=rows.device)
        for first, last in cut(len(rows), TILE_ROWS):
            here = slice(first, last)
            scores = rows[here].double() @ panel.halves[top:bottom].double().T
            best.take(here, scores, panel.given[top:bottom])
            if margin is not None:
                margin.take(here, scores - panel.tau[top:bottom], panel.given[top:bottom])
            held_score = torch.cat([held_score, scores])
            held_id = torch.cat([held_id, ids[here][:, None].expand_as(scores)])
            held_score, held_id = _lead(held_score, held_id, k)
        some = len(held_score)
        candidate_score[top:bottom, :some] = held_score.T
        candidate_id[top:bottom, :some] = held_id.T
        count[top:bottom] = some


def _lead(scores: torch.Tensor, ids: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of each column; ids ascend within a column, and so do those that are kept."""
    if len(scores) <= k:
        return scores, ids
    least = scores.topk(k, dim=0).values[-1]
    above, equal = scores > least, scores == least
    room = k - above.sum(0)
    keep = above | (equal & (equal.cumsum(0) <= room))
    # Exactly k of each column, in the order of rows: gather them column by column.
    columns = scores.shape[1]
    return (
        scores.T[keep.T].reshape(columns, k).T.contiguous(),
        ids.T[keep.T].reshape(columns, k).T.contiguous(),
    )
