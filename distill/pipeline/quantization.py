"""What the configuration asks of a checkpoint's 8-bit graphs, as `export` takes it, and the pairs that it takes."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankdistill.data.records import RankingData, Split
from rankdistill.export.graphs.variants import served_int8
from rankdistill.export.runtime.processor import abilities
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.runtime.threads import allotted_cores
from rankdistill.options import Config, FusedInt8, Int8, NoQuantize, Quantize, SearchedInt8, Weight8

if TYPE_CHECKING:
    from rankdistill.export.quantization import int8
    from rankdistill.export.quantization.ranker_graphs import Quantization
    from rankdistill.export.quantization.searched_int8 import DevLists

PAIRS = 2  # of each calibration query


def asked(config: Config, role: str) -> Quantize:
    """Return what is asked of a model: groups are chosen and excluded in the student, whose groups they name.

    Args:
        config: of the run.
        role: "teacher" or "student".
    """
    quantize = config.quantize
    if role == "student" or not isinstance(quantize, Int8):
        return quantize
    plain = {each.name: getattr(quantize, each.name) for each in fields(Int8)}
    return Int8(**plain | {"kind": "int8", "exclude": []})


def reads_pairs(quantize: Quantize) -> bool:
    """Return whether the graphs depend on pairs of the data."""
    fitted = isinstance(quantize, Int8) and (quantize.smooth is not None or quantize.outliers > 0)
    return fitted or isinstance(quantize, SearchedInt8)


def options(config: Config, role: str) -> dict[str, Any]:
    """Return what 8-bit graphs depend on, but for the data."""
    quantize = asked(config, role)
    drawn = {"max_length": _max_length(config, role), "seed": config.seed} if reads_pairs(quantize) else {}
    judged = {"served": served_int8(abilities())} if isinstance(quantize, SearchedInt8) else {}
    return {"quantize": asdict(quantize)} | drawn | judged


def quantization(config: Config, role: str, data: Path, checkpoint: Path) -> Quantization | None:
    """Return the way to 8 bits; None for none.

    Args:
        config: of the run.
        role: "teacher" or "student".
        data: folder of the data set.
        checkpoint: folder with the model's tokenizer.
    """
    from rankdistill.export.quantization import int8, ranker_graphs

    quantize = asked(config, role)
    if isinstance(quantize, NoQuantize):
        return None
    if isinstance(quantize, Weight8):
        return ranker_graphs.Weight8()
    if isinstance(quantize, FusedInt8):
        return int8.FusedInt8(quantize.per_channel, quantize.reduce_range)
    assert isinstance(quantize, Int8)
    encoder = PairEncoder.load(checkpoint, _max_length(config, role))
    plain = _int8(quantize, config.seed, data, encoder)
    if not isinstance(quantize, SearchedInt8):
        return plain
    from rankdistill.export.quantization.greedy_search import Limits
    from rankdistill.export.quantization.searched_int8 import SearchedInt8 as Searched

    limits = Limits(quantize.max_drop, quantize.min_overlap)
    lists = _dev_lists(quantize.queries, config.seed, data, encoder)
    return Searched(plain, limits, lists, served_int8(abilities()))


def _int8(quantize: Int8, seed: int, data: Path, encoder: PairEncoder) -> int8.Int8:
    from rankdistill.export.quantization import int8

    feeds = []
    if reads_pairs(quantize):
        records = RankingData.open(data)
        split = records.splits["train"].sample(quantize.calibration, seed)
        for query, items in records.lists(split):
            ids = encoder.ids([query, *items[:PAIRS]])
            feeds += [encoder.one(ids[0], item) for item in ids[1:]]
    return int8.Int8(
        per_channel=quantize.per_channel,
        reduce_range=quantize.reduce_range,
        smooth=quantize.smooth,
        outliers=quantize.outliers,
        exclude=tuple(quantize.exclude),
        feeds=feeds,
    )


def _dev_lists(queries: int, seed: int, data: Path, encoder: PairEncoder) -> DevLists:
    from rankdistill.export.quantization.searched_int8 import DevLists

    records = RankingData.open(data)
    split: Split = records.splits["dev"].sample(queries, seed)
    tokens = [(encoder.ids([query])[0], encoder.ids(items)) for query, items in records.lists(split)]
    threads = allotted_cores()
    return DevLists(tokens, split.grade, encoder, threads)


def _max_length(config: Config, role: str) -> int:
    return config.teacher.max_length if role == "teacher" else config.student.max_length
