"""The stages of an embedder: its checkpoint, its graphs, and what its vectors keep."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rankdistill.data.records import RankingData, TextTable
from rankdistill.errors import ConfigError
from rankdistill.export.graphs.graph_files import EXACT_INT8
from rankdistill.export.graphs.variants import served_int8
from rankdistill.export.measure.retrieval import RETRIEVAL
from rankdistill.export.runtime.processor import abilities, meets
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.threads import allotted_cores
from rankdistill.models import model_files
from rankdistill.options import Config, DistilledEmbed, Int8, PcaEmbed, Weight8
from rankdistill.pipeline import data_stages, measure_stages, model_stages
from rankdistill.pipeline.made_embedder import MadeEmbedder
from rankdistill.store.stages import Built, Stage, Store

if TYPE_CHECKING:
    from rankdistill.embedder.embed_training import Course
    from rankdistill.export.measure.retrieval import Kept
    from rankdistill.export.quantization.embedder_graphs import EmbedderInt8, EmbedderWeight8

# Raised when a stage's code changes what it writes: everything made by the older code is then made again.
VERSIONS = {"embedder": 1, "embedder_graphs": 2, "retrieval": 1}
GOLDEN = 8  # texts of the data that every copy is held to
DTYPES_OF_GRAPH = {"fp32": ("float32",), "int8": ("int8", "binary"), "weight8": ("int8", "binary")}  # measured forms


class Keeps(Protocol):
    """Notes what a run stands on, as `rankdistill.pipeline.run_folder.Run` does."""

    def keep(self, role: str, built: Built) -> Built:
        """Note a stage and return it."""


def locate(config: Config, source: Path) -> None:
    """Check what an embedder asks of the model that it is made of, before anything is made.

    Raises:
        ConfigError: if it does not have it.
    """
    embed = config.embed
    if not isinstance(embed, PcaEmbed):
        return
    shape = model_files.read_config(source)
    if embed.pooling == "pooler" and model_files.has_no_pooler(source):
        raise ConfigError(f"embed.pooling=pooler: allowed are mean, cls; {source} has no pooler")
    most, width, layers = (int(shape[name]) for name in
                           ("max_position_embeddings", "hidden_size", "num_hidden_layers"))  # fmt: skip
    if embed.max_length > most:
        raise ConfigError(f"embed.max_length={embed.max_length}: allowed is at most {most}, as {source} reads")
    if max(embed.dimensions, default=0) > width:
        raise ConfigError(f"embed.dimensions={embed.dimensions}: allowed are numbers up to {width}")
    if isinstance(embed, DistilledEmbed) and embed.layers is not None:
        largest = embed.layers if isinstance(embed.layers, int) else embed.layers[-1] + 1
        if largest > layers:
            raise ConfigError(f"embed.layers={embed.layers}: {source} has {layers} layers")


def keep(
    run: Keeps,
    store: Store,
    config: Config,
    data: Built,
    scores: Built | None,
    drawn: tuple[Built, Built] | None,
    source: Path,
) -> MadeEmbedder | None:
    """Make the embedder of a run; returns None if it is to have none.

    Args:
        run: keeps what it stands on.
        store: of the stages.
        config: of the run.
        data: the data set.
        scores: the teacher's, of the training pairs; None where nothing is trained.
        drawn: unlabelled pairs and the teacher's scores of them; None without.
        source: folder of the teacher's encoder before it was tuned.
    """
    if not isinstance(config.embed, PcaEmbed):
        return None
    embedded = run.keep("embeddings", data_stages.embeddings(store, data, source))
    made = run.keep("embedder", embedder(store, config, data, embedded, scores, drawn, source))
    drawn_graphs = run.keep("embedder graphs", graphs(store, config, data, made))
    return MadeEmbedder(
        made, drawn_graphs, run.keep("retrieval", retrieval(store, config, data, embedded, made, drawn_graphs))
    )


def embedder(
    store: Store, config: Config, data: Built, embedded: Built, scores: Built | None,
    drawn: tuple[Built, Built] | None, source: Path,
) -> Built:  # fmt: skip
    """Return the embedder's checkpoint."""
    embed = config.embed
    assert isinstance(embed, PcaEmbed)
    options, inputs = asdict(embed) | {"seed": config.seed}, {"data": data.key}
    if isinstance(embed, DistilledEmbed):
        train = config.train
        options |= {"precision": train.precision, "dropout": train.dropout, "freeze": train.freeze_embeddings}
        assert scores is not None
        inputs |= {"embeddings": embedded.key, "scores": scores.key}
        if drawn is not None:
            inputs |= {"drawn": drawn[0].key, "drawn scores": drawn[1].key}
    stage = Stage(
        "embedder", VERSIONS["embedder"], options, inputs, model_files.fingerprint(source), model_stages.TRAINING
    )

    def build(out: Path) -> None:
        from transformers import set_seed

        from rankdistill.embedder import embed_training
        from rankdistill.embedder import embedder_model as embedder_
        from rankdistill.training.device import Device

        set_seed(config.seed)
        device = Device.resolve(config.train)
        layers = embed.layers if isinstance(embed, DistilledEmbed) else None
        model = embedder_.TextEmbedder.begin(source, embed.pooling, layers, device.attention, config.train.dropout).to(
            device.name
        )
        encoder, records = embedder_.text_encoder(source, embed.max_length), RankingData.open(data.folder)
        texts = _train_texts(records, embed.texts, config.seed)
        embedder_.turn(model, embedder_.embed(model, encoder, texts, "embed for PCA"))
        if isinstance(embed, DistilledEmbed):
            assert scores is not None
            if config.train.freeze_embeddings is not False:
                model.bert.embeddings.requires_grad_(False)
            course = _course(records, embedded, scores, drawn, source)
            losses = embed_training.train(model, encoder, course, embed, device, config.seed, out / "checkpoints")
            (out / "losses.json").write_text(json.dumps(losses) + "\n", encoding="utf-8")
        model.cpu().save(
            out, source, kind=embed.kind, max_length=embed.max_length, dimensions=[*map(int, embed.dimensions)]
        )

    return store.get(stage, build)


def graphs(store: Store, config: Config, data: Built, made: Built) -> Built:
    """Return the embedder's graphs, in 8 bits as `quantize` has the student's, but for what only a student has."""
    quantize, inputs = asdict(config.quantize), {"model": made.key, "data": data.key}
    if isinstance(config.quantize, Int8):
        names = ("per_channel", "reduce_range", "smooth", "outliers", "calibration")
        quantize = {name: quantize[name] for name in names}
    options = {"opset": config.export.opset, "quantize": quantize, "seed": config.seed}
    options["exact"] = meets(EXACT_INT8, abilities())  # golden cosines are of the graphs that are computed exactly
    stage = Stage(
        "embedder_graphs", VERSIONS["embedder_graphs"], options, inputs, libraries=model_stages.GRAPHS,
        title="embedder graphs",
    )  # fmt: skip

    def build(out: Path) -> None:
        from rankdistill.embedder.embedder_model import text_encoder
        from rankdistill.export.bundle.embedder_golden import write_golden
        from rankdistill.export.quantization.embedder_graphs import read_about, write_embedder_graphs

        write_embedder_graphs(
            made.folder, out, opset=config.export.opset, quantization=_quantization(config, data, made)
        )
        about = read_about(made.folder)
        texts = _train_texts(RankingData.open(data.folder), GOLDEN, config.seed)
        write_golden(texts, text_encoder(made.folder, about["max_length"]), out, about["width"])

    return store.get(stage, build)


def retrieval(store: Store, config: Config, data: Built, embedded: Built, made: Built, drawn: Built) -> Built:
    """Return what the vectors keep in every form, on the measured split."""
    measure = config.measure
    options = {"split": measure.split, "confidence": measure.confidence, "resamples": measure.resamples}
    options |= {"int8": served_int8(abilities())}
    inputs = {"data": data.key, "embeddings": embedded.key, "graphs": drawn.key}
    stage = Stage(
        "retrieval", VERSIONS["retrieval"], options | {"seed": config.seed}, inputs, libraries=measure_stages.RUNTIME,
        title="what vectors keep",
    )  # fmt: skip

    def build(out: Path) -> None:
        from rankdistill.export.measure import retrieval as retrieval_
        from rankdistill.export.quantization.embedder_graphs import read_about
        from rankdistill.models import encoder_embeddings

        records, about = RankingData.open(data.folder), read_about(made.folder)
        split = records.splits[measure.split]
        relevant = int(records.summary["relevant"])
        judged = retrieval_.Judged(split.query, split.offsets, split.item, split.grade, relevant)
        forms = [
            (retrieval_.Kept("zero-shot", "fp32", "float32", about["width"]), *encoder_embeddings.read(embedded.folder))
        ]
        forms += _forms(records, split.query, made, drawn)
        measured = [(kept, retrieval_.measure(queries, items, kept, judged)) for kept, queries, items in forms]
        rows = retrieval_.rows(measured, confidence=measure.confidence, resamples=measure.resamples, seed=config.seed)
        content = about | {"split": measure.split, "queries": len(split.query), "items": len(records.items)}
        text = json.dumps(content | {"rows": rows}, indent=2) + "\n"
        (out / RETRIEVAL).write_text(text, encoding="utf-8")

    return store.get(stage, build)


def _forms(records: RankingData, asked: Any, made: Built, drawn: Built) -> list[tuple[Kept, Float32, Float32]]:
    """Return the embedder's vectors by form: of each graph's, the queries' and the items'."""
    from rankdistill.embedder.embedder_model import text_encoder
    from rankdistill.export.graphs.graph_files import FP32, WEIGHT8
    from rankdistill.export.measure.retrieval import Kept
    from rankdistill.export.quantization.embedder_graphs import read_about
    from rankdistill.export.runtime.embedder import Embedder

    about, found = read_about(made.folder), []
    files = {"fp32": FP32, "int8": served_int8(abilities()), "weight8": WEIGHT8}
    threads = allotted_cores()
    for precision, file in files.items():
        if not (drawn.folder / file).is_file():
            continue
        encoder = text_encoder(made.folder, about["max_length"])
        with Embedder(drawn.folder / file, encoder, width=about["width"], dimensions=about["dimensions"],
                      key=drawn.key, variant=precision, threads=threads) as model:  # fmt: skip
            queries = np.zeros((len(records.queries), about["width"]), dtype=np.float32)
            queries[asked] = _embed(model, records.queries.texts(asked), f"embed queries, {precision}")
            items = _embed(model, records.items.texts(), f"embed items, {precision}")
        for dtype in DTYPES_OF_GRAPH[precision]:
            for dimensions in sorted(about["dimensions"], reverse=True):
                found.append((Kept("embedder", precision, dtype, dimensions), queries, items))
    return found


def _embed(model: Any, texts: list[str], what: str) -> Float32:
    from rankdistill.export.progress import Progress

    parts = []
    with Progress(what, len(texts), "texts") as bar:
        for start in range(0, len(texts), 256):
            parts.append(model.embed(texts[start : start + 256], normalize=False))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


def _train_texts(records: RankingData, count: int, seed: int) -> list[str]:
    """Return texts of the training split: its queries and items, `count` drawn of them if there are more."""
    split = records.splits["train"]
    queries, items = np.unique(split.query), np.unique(split.item)
    rows = np.random.default_rng(seed).permutation(len(queries) + len(items))[:count]
    rows.sort()
    own = rows[rows < len(queries)]
    others = rows[rows >= len(queries)] - len(queries)
    return [*records.queries.texts(queries[own]), *records.items.texts(items[others])]


def _course(
    records: RankingData, embedded: Built, scores: Built, drawn: tuple[Built, Built] | None, source: Path
) -> Course:
    from rankdistill.data import scored_pairs, unlabelled_pairs
    from rankdistill.data.records import Split
    from rankdistill.embedder.embed_training import Course
    from rankdistill.models import encoder_embeddings
    from rankdistill.training import scoring as scores_

    split, known = records.splits["train"], scores_.read(scores.folder)
    queries, items = encoder_embeddings.read(embedded.folder)
    made: TextTable | None = None
    if drawn is not None:
        pairs, scored = drawn
        split, order = scored_pairs.join(split, Split.open(pairs.folder / unlabelled_pairs.PAIRS))
        known = np.concatenate([known, scores_.read(scored.folder)])[order]
        made = TextTable.open(pairs.folder / unlabelled_pairs.QUERIES)
        of_made = encoder_embeddings.embed(made.texts(), source, encoder_embeddings.TOKENS, "embed made queries")
        queries = np.concatenate([queries, of_made])
    return Course(split, known, records.queries, made, records.items, queries, items)


def _quantization(config: Config, data: Built, made: Built) -> EmbedderInt8 | EmbedderWeight8 | None:
    from rankdistill.embedder.embedder_model import text_encoder
    from rankdistill.export.quantization.embedder_graphs import EmbedderInt8, EmbedderWeight8, read_about

    quantize = config.quantize
    if isinstance(quantize, Weight8):
        return EmbedderWeight8()
    if not isinstance(quantize, Int8):
        return None
    encoder = text_encoder(made.folder, read_about(made.folder)["max_length"])
    texts = _train_texts(RankingData.open(data.folder), 2 * quantize.calibration, config.seed)
    feeds = [encoder.batch([ids]) for ids in encoder.ids(texts)]
    return EmbedderInt8(quantize.per_channel, quantize.reduce_range, quantize.smooth, quantize.outliers, feeds)
