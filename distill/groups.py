"""Training groups: a few candidates of one query, compared with each other in one step."""

from __future__ import annotations

import numpy as np

from distill.records import Split
from export.runtime.tokens import Int64

NONE = -1  # fills a group that its query's list is too short for
BUCKET = 32  # batches whose groups are sorted by length together, as transformers' LengthGroupedSampler does with 50


def draw_groups(
    split: Split, lengths: Int64, *, size: int, batch: int, epochs: float, max_pairs: int | None, seed: int
) -> Int64:
    """Draw the groups of a whole training, in the order they are trained on.

    In an epoch every query's candidates are dealt out once into groups of `size`, the graded ones evenly, so that each
    group has something to tell apart where the list allows it; then groups of like length stand together by batches.

    Args:
        split: candidate lists.
        lengths: int64 [pairs], tokens of each pair.
        size: candidates in a group.
        batch: groups in a step.
        epochs: passes over the split; a fraction takes part of the groups.
        max_pairs: most pairs in all, None for no limit.
        seed: of the dealing and the order.

    Returns:
        Pair rows, int64 [groups, size], `NONE` where a list was too short.
    """
    rng = np.random.default_rng(seed)
    rounds = [_deal(split, size, rng) for _ in range(int(np.ceil(epochs)))]
    groups = np.concatenate([g[rng.permutation(len(g))] for g in rounds])
    groups = groups[: max(batch, round(len(groups) * epochs / len(rounds)))]
    if max_pairs is not None:
        groups = groups[: max(batch, max_pairs // size)]
    longest = np.where(groups == NONE, 0, lengths[groups]).max(axis=1)
    ordered = []
    for start in range(0, len(groups), BUCKET * batch):
        bucket = start + np.argsort(-longest[start : start + BUCKET * batch], kind="stable")
        steps = [bucket[s : s + batch] for s in range(0, len(bucket), batch)]
        ordered += [steps[s] for s in rng.permutation(len(steps))]
    return np.asarray(groups[np.concatenate(ordered)], dtype=np.int64)


def _deal(split: Split, size: int, rng: np.random.Generator) -> Int64:
    """Deal every query's candidates into groups, like cards: highest grades first, one to each group in turn."""
    dealt = []
    for start, stop in zip(split.offsets[:-1], split.offsets[1:], strict=True):
        rows = start + rng.permutation(stop - start)
        rows = rows[np.argsort(-split.grade[rows], kind="stable")]
        count = -(-len(rows) // size)
        hands = np.full((size, count), NONE, dtype=np.int64)
        hands.reshape(-1)[: len(rows)] = rows
        dealt.append(hands.T)
    return np.concatenate(dealt)
