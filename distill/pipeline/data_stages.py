"""The stages that gather what is trained on beside the labels: embeddings, unlabelled pairs, a student's own texts."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

from rankdistill.data import shortened_items as inputs_
from rankdistill.data.records import RankingData, RankingLayout
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.models import model_files
from rankdistill.models.encoder_embeddings import TOKENS
from rankdistill.options import Config, Draw, Input
from rankdistill.store.stages import Built, Stage, Store, hash_files

# Raised when a stage's code changes what it writes: everything made by the older code is then made again.
VERSIONS = {"embeddings": 1, "augment": 3, "inputs": 2}


def embeddings(store: Store, data: Built, source: Path) -> Built:
    """Return the data set's texts embedded by the teacher's encoder before it was tuned.

    They depend on the texts, not on what was judged: another split of the same texts reuses them.
    """
    libraries, layout = ("torch", "transformers"), RankingLayout(data.folder)
    files = model_files.fingerprint(source) | hash_files([layout.folder / layout.queries, layout.folder / layout.items])
    stage = Stage("embeddings", VERSIONS["embeddings"], {"max_length": TOKENS}, {}, files, libraries)

    def build(out: Path) -> None:
        from rankdistill.models import encoder_embeddings

        encoder_embeddings.write(RankingData.open(data.folder), source, TOKENS, out)

    return store.get(stage, build)


def longest(config: Config) -> int:
    """Return the most tokens of a pair that any model of the experiment reads."""
    return max(config.teacher.max_length, config.student.max_length)


def augment(
    store: Store, config: Config, counts: Draw, data: Built, tokens: Built, embedded: Built | None, source: Path
) -> Built:
    """Return unlabelled pairs of the training queries, and of queries made of the data's texts.

    `embedded` is None where nothing is drawn by embedding.
    """
    inputs = {"tokens": tokens.key}
    if embedded is not None:
        inputs["embeddings"] = embedded.key
    options = {each.name: getattr(counts, each.name) for each in fields(Draw)}
    stage = Stage(
        "augment", VERSIONS["augment"], options, inputs, libraries=("numpy", "bm25s"), title="unlabelled pairs"
    )

    def build(out: Path) -> None:
        from rankdistill.data import unlabelled_pairs as augment_
        from rankdistill.models import encoder_embeddings

        augment_.write(
            RankingData.open(data.folder),
            counts,
            PairEncoder.load(source, longest(config)),
            encoder_embeddings.read(embedded.folder) if embedded is not None else None,
            lambda texts: encoder_embeddings.embed(texts, source, TOKENS, "embed made queries"),
            out,
        )

    return store.get(stage, build)


def inputs(store: Store, config: Config, data: Built, teacher: Built) -> Built:
    """Return the data set as a student reads it that reads less of an item than its teacher."""
    asked = config.student.input
    options, depends = asdict(asked), {"data": data.key}
    libraries: tuple[str, ...] = ()
    by_gradient = asked.words is not None and asked.keep == "gradient"
    if by_gradient:
        options |= {"max_length": config.teacher.max_length, "seed": config.seed}
        depends["teacher"] = teacher.key
        libraries = ("torch", "transformers", "tokenizers")
    stage = Stage(
        "inputs", VERSIONS["inputs"], options, depends, libraries=libraries, title="items as the student reads them"
    )

    def build(out: Path) -> None:
        records = RankingData.open(data.folder)
        weights = word_weights(asked, records, teacher.folder, config.teacher.max_length, config.seed)
        inputs_.write(data.folder, asked, weights, out)

    return store.get(stage, build)


def word_weights(asked: Input, records: RankingData, teacher: Path, max_length: int, seed: int) -> inputs_.Weights:
    """Return what words weigh by `asked.keep`; where the first are kept, all weigh the same.

    Args:
        asked: what a student reads.
        records: the data set.
        teacher: its folder; read where its gradient is asked.
        max_length: tokens of a pair that it reads.
        seed: of the pairs whose gradient is taken.
    """
    if asked.keep == "idf":
        return inputs_.idf(inputs_.field_texts(records.items, asked.fields))
    if asked.keep == "gradient" and asked.words is not None:
        from rankdistill.export.torch_models.checkpoint import load_ranker
        from rankdistill.models import word_salience

        model = load_ranker(str(teacher), cls_only=False)
        return word_salience.measure(model, teacher, max_length, records, asked.pairs, seed)
    return {}, 0.0
