"""How much a cross-encoder's score hangs on each word of an item."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertForSequenceClassification

from rankdistill.data.records import RankingData
from rankdistill.data.shortened_items import Weights
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.text.shortener import terms_of
from rankdistill.export.runtime.text.tokens import SPECIAL, Int32, PairEncoder, kept_lengths

BATCH = 32  # pairs whose gradients are taken at once


def measure(
    model: BertForSequenceClassification, folder: Path, max_length: int, data: RankingData, count: int, seed: int
) -> Weights:
    """Measure how much a model's score hangs on words, by gradient x input (Simonyan et al. 2013; Denil et al. 2014).

    A token's part of the score is, to the first order, what is lost with its embedding e: |d score / d e . e|. A word's
    weight is the sum over its tokens, averaged over where it stands in the pairs as far as the model reads them. Of a
    word that no pair showed nothing is known but that it is rare: it weighs what words found once weigh on average.

    One thread computes it, so that sums, and which words are kept by them, hang on no number of threads.

    Args:
        model: a cross-encoder on the CPU, in fp32.
        folder: with its tokenizer.
        max_length: tokens of a pair that it reads.
        data: the data set; pairs are drawn from its training split.
        count: how many.
        seed: of which.

    Returns:
        Weights of case-folded terms (`shortener.terms_of`), and that of every other one.
    """
    split = data.splits["train"]
    rows = np.random.default_rng(seed).choice(split.pairs, min(count, split.pairs), replace=False)
    queries, items = data.queries.texts(split.pair_query()[rows]), data.items.texts(split.item[rows])
    total: dict[str, float] = {}
    occurrences = Counter[str]()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for term, weight in _word_weights(model, folder, max_length, queries, items):
            total[term] = total.get(term, 0.0) + weight
            occurrences[term] += 1
    finally:
        torch.set_num_threads(threads)
    weights = {term: value / occurrences[term] for term, value in total.items()}
    rare = [weights[term] for term, number in occurrences.items() if number == 1] or list(weights.values())
    return weights, float(np.mean(rare)) if rare else 0.0


def token_weights(model: BertForSequenceClassification, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return |d score / d e . e| of each token's word embedding e, float [pairs, tokens].

    Args:
        model: an ordinary BERT cross-encoder.
        inputs: `input_ids`, `token_type_ids` and `attention_mask`, int64 [pairs, tokens].
    """
    ids, others = inputs["input_ids"], {name: value for name, value in inputs.items() if name != "input_ids"}
    embedded = model.bert.embeddings.word_embeddings(ids).detach().requires_grad_()
    scores: Tensor = model(inputs_embeds=embedded, **others).logits
    (gradient,) = torch.autograd.grad(scores.sum(), embedded)
    weights: Tensor = (gradient * embedded).sum(dim=2).abs().detach()
    return weights


def _word_weights(
    model: BertForSequenceClassification, folder: Path, max_length: int, queries: Sequence[str], items: Sequence[str]
) -> Iterator[tuple[str, float]]:
    """Yield every word of the items that the model reads, wherever it stands, with the sum over its tokens."""
    encoder = PairEncoder.load(folder, max_length)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    left = encoder.ids(queries)
    right = tokenizer.encode_batch(list(items), add_special_tokens=False)
    order = sorted(range(len(items)), key=lambda row: len(left[row]) + len(right[row].ids))
    with Progress("weigh words", len(items), "pairs") as bar:
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            ids: list[Int32] = [np.array(right[row].ids, dtype=np.int32) for row in rows]
            batch = encoder.batch([left[row] for row in rows], ids)
            found = token_weights(model, {name: torch.from_numpy(value) for name, value in batch.items()}).numpy()
            for weights, row, item in zip(found, rows, ids, strict=True):
                query, kept = (int(n) for n in kept_lengths(len(left[row]), len(item), max_length - SPECIAL))
                offsets = right[row].offsets[:kept]
                yield from _by_word(items[row], offsets, weights[query + 2 : query + 2 + kept])
            bar.update(len(rows))


def _by_word(
    text: str, offsets: Sequence[tuple[int, int]], weights: npt.NDArray[np.float32]
) -> Iterator[tuple[str, float]]:
    """Yield a text's words that have tokens, with the sum of their weights; a token belongs to where it begins.

    Args:
        text: of the item.
        offsets: of each token, from which to which character of the text it goes.
        weights: of the tokens, float32 [tokens].
    """
    words = terms_of(text)
    starts = [start for _, start, _ in words]
    sums: dict[int, float] = {}
    for (begin, _), weight in zip(offsets, weights.tolist(), strict=True):
        place = bisect_right(starts, begin) - 1
        if place >= 0 and begin < words[place][2]:
            sums[place] = sums.get(place, 0.0) + weight
    for place, weight in sums.items():
        yield words[place][0], weight
