"""Training groups: a few candidates of one query, compared with each other in one step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rankdistill.data.records import Split
from rankdistill.export.runtime.text.tokens import Int64

NONE = -1  # fills a group that its query's list is too short for
BUCKET = 32  # steps whose groups are sorted by length together, as transformers' LengthGroupedSampler does with 50


@dataclass(frozen=True)
class Steps:
    """The groups of a whole training by steps, in the order they are trained on: the Trainer's data set.

    Attributes:
        groups: pair rows, int64 [groups, size], `NONE` where a list was too short.
        offsets: int64 [steps + 1]; step i is groups[offsets[i]:offsets[i + 1]].
    """

    groups: Int64
    offsets: Int64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, step: int) -> Int64:
        """Return the groups of a step, int64 [groups, size]."""
        return self.groups[self.offsets[step] : self.offsets[step + 1]]

    @property
    def mean_groups(self) -> float:
        """Mean number of groups in a step."""
        return len(self.groups) / len(self)

    @property
    def pairs(self) -> int:
        """Number of pairs in all steps."""
        return int((self.groups != NONE).sum())


def draw_steps(
    split: Split,
    lengths: Int64,
    *,
    size: int,
    batch: int,
    tokens: int | None,
    epochs: float,
    max_pairs: int | None,
    seed: int,
) -> Steps:
    """Draw the steps of a whole training.

    In an epoch every query's candidates are dealt out once into groups of `size`, the graded ones evenly, so that each
    group has something to tell apart where the list allows it; then groups of like length are put into a step.

    Args:
        split: candidate lists.
        lengths: int64 [pairs], tokens of each pair.
        size: candidates in a group.
        batch: groups in a step, where `tokens` is None.
        tokens: most tokens in a step, each pair counted as long as the step's longest; a group that has more is a step
            of its own. As many groups as fit make the step.
        epochs: passes over the split; a fraction takes part of the groups.
        max_pairs: most pairs in all, None for no limit; a step at least is drawn.
        seed: of the dealing and the order.
    """
    rng = np.random.default_rng(seed)
    rounds = [_deal(split, size, rng)]
    needed = int(np.ceil(epochs))
    if max_pairs is not None:
        needed = min(needed, -(-max_pairs // split.pairs))  # no epoch that `max_pairs` leaves nothing of
    rounds += [_deal(split, size, rng) for _ in range(needed - 1)]
    groups = np.concatenate([g[rng.permutation(len(g))] for g in rounds])
    wanted = round(len(rounds[0]) * epochs)
    if max_pairs is not None:
        shown = (groups != NONE).sum(axis=1).cumsum()
        wanted = min(wanted, int(np.searchsorted(shown, max_pairs, side="right")))
    groups = groups[: max(batch if tokens is None else 1, wanted)]
    longest = np.where(groups == NONE, 0, lengths[groups]).max(axis=1)
    pairs = (groups != NONE).sum(axis=1)
    usual = batch if tokens is None else max(1, round(tokens / float((pairs * longest).mean())))
    steps = []
    for start in range(0, len(groups), BUCKET * usual):
        bucket = start + np.argsort(-longest[start : start + BUCKET * usual], kind="stable")
        counts = _full(len(bucket), batch) if tokens is None else _fitting(longest[bucket], pairs[bucket], tokens)
        drawn = np.split(bucket, np.cumsum(counts)[:-1])
        steps += [drawn[step] for step in rng.permutation(len(drawn))]
    offsets = np.r_[0, np.cumsum([len(step) for step in steps])].astype(np.int64)
    return Steps(np.asarray(groups[np.concatenate(steps)], dtype=np.int64), offsets)


def _full(groups: int, batch: int) -> list[int]:
    """Return the numbers of groups of steps of `batch` groups; the last may have fewer."""
    return [min(batch, groups - start) for start in range(0, groups, batch)]


def _fitting(longest: Int64, pairs: Int64, tokens: int) -> list[int]:
    """Return the numbers of groups of steps that hold as many groups, longest first, as `tokens` allow."""
    counts, first, held = [0], 0, 0
    for group, count in enumerate(pairs.tolist()):
        if counts[-1] and (held + count) * longest[first] > tokens:
            counts.append(0)
            first, held = group, 0
        counts[-1] += 1
        held += count
    return counts


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
