"""Text to token ids, the same for training, measuring and serving: query and item are tokenised apart, then joined.

WordPiece never looks across the [SEP] between the two, so the joined ids equal those of the tokenizer's own pair
encoding with `truncation="longest_first"` (a test holds it to that), and an item's ids can be kept between requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from rankdistill.export.errors import ModelError, is_fault
from rankdistill.export.runtime.text.word_tokens import Words

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]

SPECIAL = 3  # [CLS] query [SEP] item [SEP]


class PairEncoder:
    """Encodes (query, item) pairs for a BERT cross-encoder.

    Args:
        tokenizer: a fast tokenizer whose pair template is `[CLS] A [SEP] B [SEP]` with type ids 0 and 1.
        max_length: most tokens of a pair, the three special ones included.

    Raises:
        ModelError: if the tokenizer's template is another one, or max_length leaves no room for text.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        if max_length < SPECIAL + 2:
            raise ModelError(f"max_length={max_length} leaves no room for text; at least {SPECIAL + 2}")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.cls, self.sep = pair_ends(tokenizer)
        self._tokenizer = tokenizer
        self._serial = False
        self._words = Words.of(tokenizer)
        self.max_length = max_length
        self._cls, self._sep = np.array([self.cls]), np.array([self.sep])
        self._types = np.repeat(np.array([0, 1]), max_length)
        self._mask = np.ones((1, max_length), dtype=np.int64)

    @classmethod
    def load(cls, folder: Path, max_length: int) -> PairEncoder:
        """Read `tokenizer.json` of a model's folder.

        Raises:
            ModelError: if the file is missing or no tokenizer.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{path} is missing; a ranker's folder holds the fast tokenizer's tokenizer.json")
        try:
            return cls(Tokenizer.from_file(str(path)), max_length)
        except ModelError:
            raise
        except BaseException as error:  # tokenizers raises plain Exception, and a panic of its Rust is not even that
            if not is_fault(error):
                raise
            raise ModelError(f"{path} is no tokenizer: {error}") from error

    def ids(self, texts: Sequence[str]) -> list[Int32]:
        """Tokenise texts alone, without special tokens and uncut: which of two texts is longer decides what is cut.

        Returns:
            One int32 [tokens] a text.
        """
        found = [self._words.ids(text) for text in texts] if self._words else [None] * len(texts)
        others = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        if not others:
            return [ids for ids in found if ids is not None]
        encoded = iter(self._encode(others))
        return [next(encoded) if ids is None else ids for ids in found]

    def _encode(self, texts: Sequence[str]) -> list[Int32]:
        try:
            if self._serial:
                encodings = [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]
            else:
                encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):  # halves of surrogate pairs, which no file in UTF-8 can hold
            whole = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
            if whole == list(texts):
                raise
            return self._encode(whole)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def forked(self) -> None:
        """Tokenise one text at a time from now on: the tokenizer's threads stayed in the parent process."""
        self._serial = True

    def cut(self, query: Int32, item: Int32) -> tuple[Int32, Int32]:
        """Return what of a query's and an item's ids fits into `max_length` together: mostly all."""
        left, right, room = len(query), len(item), self.max_length - SPECIAL
        if left + right <= room:
            return query, item
        left, right = (int(n) for n in kept_lengths(left, right, room))
        return query[:left], item[:right]

    def join(self, query: Int32, item: Int32) -> tuple[Int64, Int64]:
        """Join the ids of a query and an item into a pair's inputs.

        Returns:
            input_ids int64 [tokens], token_type_ids int64 [tokens].
        """
        query, item = self.cut(query, item)
        left = len(query)
        ids = np.empty(left + len(item) + SPECIAL, dtype=np.int64)
        ids[0] = self.cls
        ids[1 : left + 1] = query
        ids[left + 1] = self.sep
        ids[left + 2 : -1] = item
        ids[-1] = self.sep
        types = np.zeros(len(ids), dtype=np.int64)
        types[left + 2 :] = 1
        return ids, types

    def one(self, query: Int32, item: Int32) -> dict[str, Int64]:
        """Join a pair as a batch of one: the types and the mask are views of arrays that every pair shares.

        Returns:
            input_ids, token_type_ids, attention_mask: int64 [1, tokens].
        """
        left, right, room = len(query), len(item), self.max_length - SPECIAL
        if left + right > room:
            left, right = (int(n) for n in kept_lengths(left, right, room))
        ids = np.concatenate((self._cls, query[:left], self._sep, item[:right], self._sep), dtype=np.int64)
        start = self.max_length - left - 2  # where the shared zeros leave as many as the query has
        types = self._types[start : start + len(ids)]
        return {"input_ids": ids[None], "token_type_ids": types[None], "attention_mask": self._mask[:, : len(ids)]}

    def equal(self, queries: Sequence[Int32], items: Sequence[Int32]) -> dict[str, Int64]:
        """Join pairs of one length, so that nothing is padded; as `one`, [pairs, tokens]."""
        if len(queries) == 1:
            return self.one(queries[0], items[0])
        joined = [self.join(q, i) for q, i in zip(queries, items, strict=True)]
        ids, types = np.stack([i for i, _ in joined]), np.stack([t for _, t in joined])
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": np.ones(ids.shape, dtype=np.int64)}

    def batch(self, queries: Sequence[Int32], items: Sequence[Int32]) -> dict[str, Int64]:
        """Join pairs and pad them to the longest.

        Returns:
            input_ids, token_type_ids, attention_mask: int64 [pairs, tokens].
        """
        joined = [self.join(q, i) for q, i in zip(queries, items, strict=True)]
        shape = (len(joined), max((len(ids) for ids, _ in joined), default=0))
        out = {name: np.zeros(shape, dtype=np.int64) for name in ("input_ids", "token_type_ids", "attention_mask")}
        for row, (ids, types) in enumerate(joined):
            out["input_ids"][row, : len(ids)] = ids  # [PAD] is 0 in every BERT vocabulary, and masked out
            out["token_type_ids"][row, : len(ids)] = types
            out["attention_mask"][row, : len(ids)] = 1
        return out


def pair_ends(tokenizer: Tokenizer) -> tuple[int, int]:
    """Return the ids of the tokens that a pair begins with, and that each of its texts ends with.

    Args:
        tokenizer: that neither cuts nor pads.

    Raises:
        ModelError: if it does not join a pair as [CLS] query [SEP] item [SEP] with type ids 0 and 1.
    """
    texts = ("a a", "b")  # of unlike lengths, so that their order shows
    pair = tokenizer.encode(*texts)
    query, item = (tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
    if pair.type_ids == [0] * (len(query) + 2) + [1] * (len(item) + 1):
        cls, sep = pair.ids[0], pair.ids[-1]
        if cls != sep and pair.ids == [cls, *query, sep, *item, sep]:
            return cls, sep
    raise ModelError("the tokenizer does not join a pair as [CLS] query [SEP] item [SEP]; not a BERT tokenizer")


def kept_lengths(
    query: int | Int64, item: int | Int64, room: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return how many tokens of a query and an item fit into `room` together (numbers or arrays of them).

    The rule is "longest first" as huggingface/tokenizers has it (`truncate_encodings` in utils/truncation.rs): cut the
    longer text down to the shorter, then both to half each, the larger half to the longer one.
    """
    short, long = np.minimum(query, item), np.maximum(query, item)
    cut_long = np.where(short > room, short, np.maximum(short, room - short))
    over = short + cut_long > room
    cut_short = np.where(over, room // 2, short)
    cut_long = np.where(over, room // 2 + room % 2, cut_long)
    fits = short + long <= room
    cut_short, cut_long = np.where(fits, short, cut_short), np.where(fits, long, cut_long)
    swapped = np.greater(query, item)
    return np.where(swapped, cut_long, cut_short), np.where(swapped, cut_short, cut_long)
