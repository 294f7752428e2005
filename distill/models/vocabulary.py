"""Which tokens a student keeps an embedding of its own for; the id of any other means [UNK] to it.

The tokenizer stays as it is. Without some of its tokens, WordPiece would cut a word into other pieces, and a
tokenizer.json in which tokens share an id is mended silently by whatever saves it: both make another text of what was
asked. So every tool tokenises as before, and only the model takes a dropped token for [UNK]
(`rankdistill.models.pruned_embedding`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models

from rankdistill.data.records import Int32, Int64
from rankdistill.errors import ConfigError
from rankdistill.export.runtime.text.tokens import SPECIAL
from rankdistill.options import Vocabulary

if TYPE_CHECKING:
    from rankdistill.data.tokens import PairTokens, TokenColumn

log = logging.getLogger(__name__)

BLOCK = 8192  # texts whose tokens are counted at a time
PADDING = 0  # what `PairEncoder.batch` fills up with
TOLD = 3  # lines of a safety file that an error names
ROW_BYTES = {"fp32": 4, "int8": 1}  # of an entry of the word table
MAP_BYTES = 4  # of a token's entry in the map from ids to rows

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Kept:
    """The tokens that a student keeps.

    Attributes:
        ids: rising, int64 [kept]; [UNK] is among them.
        unknown: the id of [UNK].
        summary: counts, and shares of what is lost, for the stage's folder.
    """

    ids: Int64
    unknown: int
    summary: dict[str, Any]


def choose(options: Vocabulary, tokenizer: Path, pairs: PairTokens, dev: PairTokens, *, size: int, width: int) -> Kept:
    """Choose the tokens that occur often enough in training queries and the whole catalogue, and those always kept.

    Args:
        options: `min_count` is a number.
        tokenizer: folder of the teacher.
        pairs: what is trained on; every text of its queries and of the item table counts once, as far as it is read.
        dev: pairs whose queries show what unseen text would lose.
        size: rows of the model's word table.
        width: of the student.

    Raises:
        ConfigError: as `always_kept`, or if more of the training's tokens than `max_unknown` would become [UNK].
    """
    unknown, always, queries, items, kept = _counted(options, tokenizer, pairs, size)
    ids = np.flatnonzero(kept)
    held_out = count_tokens(dev.table.queries, dev.split.query, pairs.encoder.max_length - SPECIAL, size)
    lost = {"training queries": queries, "items": items, "dev queries": held_out}
    summary: dict[str, Any] = {
        "kept": len(ids),
        "dropped": size - len(ids),
        "always_kept": len(always),
        "unknown": {name: round(_lost(of, kept), 6) for name, of in lost.items()},
        "bytes_saved": {
            kind: (size - len(ids)) * width * entry - MAP_BYTES * size for kind, entry in ROW_BYTES.items()
        },
    }
    shares = ", ".join(f"{share:.4%} of {name}" for name, share in summary["unknown"].items())
    log.info("vocabulary: %d of %d tokens kept; [UNK] becomes %s", len(ids), size, shares)
    return Kept(ids, unknown, summary)


def check(options: Vocabulary, tokenizer: Path, pairs: PairTokens, size: int) -> None:
    """Refuse what `choose` would refuse.

    Raises:
        ConfigError: as `choose`.
    """
    _counted(options, tokenizer, pairs, size)


def _counted(
    options: Vocabulary, tokenizer: Path, pairs: PairTokens, size: int
) -> tuple[int, Int64, Int64, Int64, Mask]:
    """Return the id of [UNK], the tokens always kept, those of queries and of items counted, and which are kept."""
    assert options.min_count is not None
    unknown, always = always_kept(options, tokenizer)
    queries, items = count_shown(pairs, size)
    counts = queries + items
    kept = counts >= options.min_count
    kept[always] = True
    if _lost(counts, kept) > options.max_unknown:
        raise ConfigError(_too_many_unknown(options, counts, kept, always))
    return unknown, always, queries, items, kept


def always_kept(options: Vocabulary, tokenizer: Path) -> tuple[int, Int64]:
    """Return the id of [UNK], and the ids that are kept whatever the data: special tokens, characters, safety texts.

    Args:
        options: `safety` names the file of texts.
        tokenizer: folder of the teacher.

    Raises:
        ConfigError: if the tokenizer is no WordPiece with an unknown token, or has no token for a part of the texts.
    """
    loaded = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    loaded.no_truncation()  # a tokenizer's file may say so, and then of a long text only the beginning would count
    loaded.no_padding()
    model = loaded.model
    unknown = loaded.token_to_id(model.unk_token) if isinstance(model, models.WordPiece) else None
    if unknown is None:
        raise ConfigError(
            f"student.vocabulary.min_count={options.min_count}: allowed is null with this teacher: {tokenizer} has no "
            "WordPiece vocabulary with an unknown token"
        )
    texts = _safety_texts(options.safety)
    wanted = loaded.encode_batch_fast(texts, add_special_tokens=False)
    without = [text for text, encoding in zip(texts, wanted, strict=True) if unknown in encoding.ids]
    if without:
        more = f" and {len(without) - TOLD} more" if len(without) > TOLD else ""
        told = ", ".join(repr(text) for text in without[:TOLD])
        raise ConfigError(
            f"student.vocabulary.safety={options.safety}: allowed are texts that the teacher's tokenizer has tokens "
            f"for; it has none for a part of {told}{more}"
        )
    ids = {PADDING, unknown, *loaded.get_added_tokens_decoder(), *characters(loaded)}
    return unknown, np.array(sorted(ids.union(*(encoding.ids for encoding in wanted))), dtype=np.int64)


def characters(tokenizer: Tokenizer) -> Iterator[int]:
    """Yield the ids of single characters, alone and within a word, that a text can come to.

    A word that no data showed is often cut down to them. Many in a vocabulary come of no text: what the normalizer
    changes ("É" in lower case), or within a word what stands alone ("##红", "##!").
    """
    prefix = tokenizer.model.continuing_subword_prefix
    for token, number in tokenizer.get_vocab(with_added_tokens=False).items():
        inner = len(token) == len(prefix) + 1 and token.startswith(prefix)
        if inner or len(token) == 1:
            text = "a" + token[-1] if inner else token
            if _words(tokenizer, text) == [text]:
                yield number


def count_shown(pairs: PairTokens, size: int) -> tuple[Int64, Int64]:
    """Return how often each token stands in what a model reads of training queries, and of the catalogue.

    Args:
        pairs: the training pairs.
        size: of the vocabulary.

    Returns:
        Occurrences in queries and in items, int64 [size] each.
    """
    room = pairs.encoder.max_length - SPECIAL
    queries = count_tokens(pairs.table.queries, pairs.split.query, room, size)
    return queries, count_tokens(pairs.table.items, None, room, size)


def count_tokens(column: TokenColumn, rows: Int32 | None, room: int, size: int) -> Int64:
    """Count each token in the texts of these rows (all of them without rows), each text once.

    Args:
        column: texts as ids, memory-mapped; read a block at a time.
        rows: int32 [texts], in any order and more than once.
        room: tokens of a text that a model can read; what comes later is never seen.
        size: of the vocabulary.

    Returns:
        Occurrences, int64 [size].
    """
    texts = len(column.offsets) - 1
    wanted = np.ones(texts, dtype=bool)
    if rows is not None:
        wanted = np.bincount(rows, minlength=texts) > 0
    counts = np.zeros(size, dtype=np.int64)
    for start in range(0, texts, BLOCK):
        offsets = np.asarray(column.offsets[start : start + BLOCK + 1])
        lengths = np.diff(offsets)
        place = np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], lengths)
        taken = np.repeat(wanted[start : start + BLOCK], lengths) & (place < room)
        counts += np.bincount(column.ids[offsets[0] : offsets[-1]][taken], minlength=size)
    return counts


def _safety_texts(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"student.vocabulary.safety={path}: allowed is a file of texts in UTF-8 ({error})") from error
    texts = list(dict.fromkeys(line for line in map(str.strip, text.splitlines()) if line))
    if not texts:
        raise ConfigError(f"student.vocabulary.safety={path}: allowed is a file of texts, one a line; it has none")
    return texts


def _words(tokenizer: Tokenizer, text: str) -> Sequence[str]:
    """Return the words that WordPiece is handed of a text."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer is None:
        return [text]
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def _lost(counts: Int64, kept: Mask) -> float:
    """Return the share of occurrences that become [UNK]."""
    return float(counts[~kept].sum() / max(1, counts.sum()))


def _too_many_unknown(options: Vocabulary, counts: Int64, kept: Mask, always: Int64) -> str:
    rare = np.sort(np.delete(counts, always))
    rare = rare[rare > 0]
    most = int(
        rare[(np.cumsum(rare) > options.max_unknown * counts.sum()).argmax()]
    )  # so many lose none but rarer ones
    return (
        f"student.vocabulary.min_count={options.min_count}: allowed is 1 to {most} with "
        f"student.vocabulary.max_unknown={options.max_unknown:g}; {_lost(counts, kept):.4f} of the training's tokens "
        "would become [UNK]"
    )
