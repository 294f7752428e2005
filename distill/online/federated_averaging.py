"""Several workers, each over some users' events: their changes are averaged after an update (federated averaging)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from rankdistill.data.tokens import PairTokens
from rankdistill.export.extras import require
from rankdistill.online.replay import rows_of
from rankdistill.online.update_trainer import Lessons, State, train_update
from rankdistill.options import Update

Weights = Mapping[str, Tensor]


def train_on(
    model: BertForSequenceClassification, lessons: Lessons, state: State, *, update: Update, **options: Any
) -> tuple[dict[str, Tensor], str]:
    """Train a student in place, in this process or by `update.workers` of Ray; see `training.train_update`.

    With more than one worker the lists are dealt out, each worker trains the same student on its own, and the student
    becomes the mean of theirs weighted by their lists: one round of FedAvg (McMahan et al. 2017, "Communication-
    efficient learning of deep networks from decentralized data", algorithm 1), so no worker needs another's events.
    Moments of different workers are of different paths and are not kept.

    Raises:
        UserError: if Ray is asked for and not installed.
    """
    if update.workers == 1:
        return train_update(model, lessons, state, update=update, **options)
    require("ray", "ray")
    shards = deal(lessons, update.workers)
    trained = _with_ray(model, shards, replace(update, workers=1), options)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average(start, trained, [len(shard.pairs.split.query) for shard in shards]))
    return {}, "new"


def deal(lessons: Lessons, workers: int) -> list[Lessons]:
    """Return the lists dealt out by their owner, so that a user's events are one worker's.

    Args:
        lessons: what is trained on.
        workers: how many shares there are; a share without lists is left out.
    """
    split = lessons.pairs.split
    shares = []
    for worker in range(workers):
        lists = np.flatnonzero(lessons.owner % workers == worker)
        if not len(lists):
            continue
        rows = rows_of(split, lists)
        pairs = PairTokens(split.take(lists), lessons.pairs.table, lessons.pairs.encoder)
        known = {name: values[rows] for name, values in lessons.known.items()}
        shares.append(Lessons(pairs, known, lessons.owner[lists]))
    return shares


def average(start: Weights, trained: Sequence[Weights], counts: Sequence[int]) -> dict[str, Tensor]:
    """Return start + sum of n_k / n (trained_k - start): McMahan et al. 2017, algorithm 1, last line.

    Args:
        start: the parameters that every worker began with.
        trained: each worker's.
        counts: what each has seen, its weight.
    """
    total = sum(counts)
    mean = {}
    for name, value in start.items():
        if not value.is_floating_point():
            mean[name] = value.clone()
            continue
        changes = (count / total * (each[name] - value) for each, count in zip(trained, counts, strict=True))
        mean[name] = value + torch.stack([*changes]).sum(dim=0)
    return mean


def _with_ray(
    model: BertForSequenceClassification, shards: Sequence[Lessons], update: Update, options: Mapping[str, Any]
) -> list[Weights]:
    import ray

    work: Path = options["work"]
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        remote = ray.remote(num_cpus=1)(_train_share)
        given = ray.put(model)
        tasks = [
            remote.remote(given, shard, update, {**options, "work": work / f"worker-{number}"})
            for number, shard in enumerate(shards)
        ]
        return [{name: torch.tensor(v) for name, v in each.items()} for each in ray.get(tasks)]
    finally:
        if started:
            ray.shutdown()


def _train_share(
    model: BertForSequenceClassification, share: Lessons, update: Update, options: dict[str, Any]
) -> dict[str, Any]:
    torch.set_num_threads(1)
    options["work"].mkdir(parents=True, exist_ok=True)
    train_update(model, share, {}, update=update, **options)
    return {name: value.numpy() for name, value in model.state_dict().items()}
