"""Training an embedder on a cross-encoder's scores: which items a step has, and the steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rankdistill.data.records import Float32, Int32, Int64, Split, TextTable
from rankdistill.embedder import embed_losses, embedder_model
from rankdistill.embedder.embed_losses import Lesson, embedder_loss
from rankdistill.embedder.embedder_model import CHUNKS, TextEmbedder
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.embedder import TextEncoder
from rankdistill.options import DistilledEmbed
from rankdistill.training.device import Device
from rankdistill.training.scoring import autocast

CHECKPOINT = "embedder.pt"
KEEP_EVERY = 50  # steps: what a kill loses at most
WEIGHT_DECAY = 0.01
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Course:
    """What an embedder learns from.

    Attributes:
        split: lists of scored pairs; rows of queries from len(queries) on are made ones.
        scores: the teacher's logits, float32 [pairs].
        queries: texts.
        made: texts of the queries that were made; None without.
        items: texts.
        query_vectors: of all queries by the encoder before it was tuned, of length 1, float32 [queries, width].
        item_vectors: of the items, likewise.
    """

    split: Split
    scores: Float32
    queries: TextTable
    made: TextTable | None
    items: TextTable
    query_vectors: Float32
    item_vectors: Float32

    def query_texts(self, rows: Int32) -> list[str]:
        """Return the texts of these queries."""
        own = len(self.queries)
        texts = self.queries.texts(np.where(rows < own, rows, 0))
        for place in np.flatnonzero(rows >= own):
            assert self.made is not None
            texts[place] = self.made.texts([int(rows[place]) - own])[0]
        return texts


def choose_group(teacher: Float32, similarity: Float32, size: int, rng: np.random.Generator) -> Int64:
    """Choose the items of a query's group: the teacher's first, hard negatives, and some at random.

    Half of the others are those that the embedding thinks nearest although the teacher ranks them below its first.

    Args:
        teacher: logits of the query's items, float32 [items].
        similarity: cosines of the same by the embedding, float32 [items].
        size: items in the group.
        rng: draws.

    Returns:
        Rows of the list, int64 [size], or all if there are no more.
    """
    if len(teacher) <= size:
        return np.arange(len(teacher))
    best = int(teacher.argmax())
    others = np.delete(np.arange(len(teacher)), best)
    hard = others[np.argsort(-similarity[others], kind="stable")][: 2 * size]
    chosen = rng.choice(hard, min(len(hard), size // 2), replace=False)
    rest = np.setdiff1d(others, chosen)
    return np.concatenate([[best], chosen, rng.choice(rest, size - 1 - len(chosen), replace=False)])


def lesson(course: Course, lists: Int64, options: DistilledEmbed, rng: np.random.Generator) -> tuple[Lesson, Int32]:
    """Return what is known of a step's queries and items, and the items' rows.

    Args:
        course: that is taught.
        lists: int64 [queries], positions in its split.
        options: size of a group.
        rng: draws the groups.
    """
    size, split = options.group_size, course.split
    pairs = np.zeros((len(lists), size), dtype=np.int64)
    mask = np.zeros(pairs.shape, dtype=np.bool_)
    for place, number in enumerate(lists):
        rows = np.arange(split.offsets[number], split.offsets[number + 1])
        near = course.item_vectors[split.item[rows]] @ course.query_vectors[split.query[number]]
        chosen = rows[choose_group(course.scores[rows], near, size, rng)]
        pairs[place, : len(chosen)], mask[place, : len(chosen)] = chosen, True
        pairs[place, len(chosen) :] = chosen[0]
    items, group = np.unique(split.item[pairs], return_inverse=True)
    group = group.reshape(pairs.shape)
    similarity = course.query_vectors[split.query[lists]] @ course.item_vectors[items].T
    teacher = course.scores[pairs]
    first = np.where(mask, teacher, -np.inf).argmax(axis=1)
    nearest = similarity[np.arange(len(lists)), group[np.arange(len(lists)), first]]
    own = np.zeros(similarity.shape, dtype=np.bool_)
    np.put_along_axis(own, group, True, axis=1)
    # another query's item that is as near as the best of one's own may well be a good one that nobody judged
    negative = ~own & (similarity < nearest[:, None])
    tensors = (torch.from_numpy(np.asarray(each)) for each in (group, mask, teacher, negative, similarity))
    return Lesson(*tensors), items.astype(np.int32)


def train(
    model: TextEmbedder,
    encoder: TextEncoder,
    course: Course,
    options: DistilledEmbed,
    device: Device,
    seed: int,
    work: Path,
) -> list[float]:
    """Train an embedder, going on where a killed training stopped.

    Args:
        model: as it begins.
        encoder: of its tokens.
        course: that is taught.
        options: losses and steps.
        device: what it is trained with.
        seed: of what is drawn.
        work: folder for what a killed training goes on with.

    Returns:
        The loss of each step since it began or went on.
    """
    dimensions = sorted({*options.dimensions, model.projection.out_features})
    scale = torch.nn.Parameter(torch.tensor(_first_scale(course, options, seed)).log())
    weights = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": [scale], "weight_decay": 0.0}]
    )
    begin = _resume(work / CHECKPOINT, model, scale, optimizer)
    found: list[float] = []
    model.train()
    with Progress("train the embedder", options.steps - begin, "steps") as bar:
        for step in range(begin, options.steps):
            for each in optimizer.param_groups:
                each["lr"] = options.learning_rate * _rate(step, options)
            torch.manual_seed(seed + step)  # of dropout: a training that goes on has the same
            lists = _lists(course.split, step, options, seed)
            known, rows = lesson(course, lists, options, _rng(seed, step))
            texts = [*course.query_texts(course.split.query[lists]),
                     *course.items.texts(rows)]  # fmt: skip
            ids, count = encoder.ids(texts), len(known.group)
            place = torch.device(device.name)
            with autocast(place, device.bf16):
                vectors = embedder_model.by_length(model, encoder, ids, math.ceil(len(ids) / CHUNKS), place).float()
            known = Lesson(*(getattr(known, name).to(place) for name in known.__dataclass_fields__))
            loss = embedder_loss(vectors[:count], vectors[count:], known, scale.exp(), options, dimensions)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_([*weights, scale], LARGEST_GRADIENT)
            optimizer.step()
            found.append(float(loss.detach()))
            if (step + 1) % KEEP_EVERY == 0:
                _keep(work / CHECKPOINT, step + 1, model, scale, optimizer)
            bar.update(1, f"loss {np.mean(found[-20:]):.3f}")
    model.eval()
    return found


def _rng(seed: int, step: int) -> np.random.Generator:
    return np.random.default_rng((seed, step))


def _lists(split: Split, step: int, options: DistilledEmbed, seed: int) -> Int64:
    """Return the lists of a step: an epoch has each once, in an order of its own."""
    number, size = len(split.query), min(options.batch_queries, len(split.query))
    places = np.arange(step * size, (step + 1) * size)
    epochs = places // number
    orders = {epoch: np.random.default_rng((seed, 1, epoch)).permutation(number) for epoch in np.unique(epochs)}
    return np.unique([orders[epoch][place % number] for epoch, place in zip(epochs, places, strict=True)])


def _rate(step: int, options: DistilledEmbed) -> float:
    """Return the share of the learning rate: rising in the warm-up, then falling to 0, both evenly."""
    rising = options.warmup * options.steps
    return (step + 1) / (rising + 1) if step < rising else (options.steps - step) / (options.steps - rising)


def _first_scale(course: Course, options: DistilledEmbed, seed: int) -> float:
    """Return what fits the margins of cosines to the teacher's before training."""
    rng = _rng(seed, options.steps)
    lists = rng.choice(len(course.split.query), min(256, len(course.split.query)), replace=False)
    known, _ = lesson(course, lists, options, rng)
    return embed_losses.margin_scale(known.similarity.gather(1, known.group), known.teacher, known.mask)


def _keep(path: Path, step: int, model: TextEmbedder, scale: Tensor, optimizer: torch.optim.Optimizer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    state = {"step": step, "model": model.state_dict(), "scale": scale.detach(), "optimizer": optimizer.state_dict()}
    torch.save(state, half)
    half.replace(path)


def _resume(path: Path, model: TextEmbedder, scale: Tensor, optimizer: torch.optim.Optimizer) -> int:
    """Return the steps that were made before, their state loaded."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    with torch.no_grad():
        scale.copy_(state["scale"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
