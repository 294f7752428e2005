"""A short way to a text's tokens: word by word, each word's tokens found by the tokenizer once.

WordPiece looks at one word at a time, and BERT's normalizer and pre-tokenizer do little to plain ASCII text: lower
case, words and single punctuation marks. What stands between spaces and is not plain is one word for the tokenizer
here, since nothing that they do reaches across a space. Texts with special tokens, or long stretches without spaces,
are left to the tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

PLAIN = re.compile(r"[\t\n\r -~]*")
SPACES = re.compile(r"[\t\n\r ]+")
WORDS = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]")  # BertPreTokenizer: words between spaces and punctuation marks
MOST_WORDS = 50_000  # kept at once, about 10 MB
LONGEST_WORD = 100  # characters of one that is kept: WordPiece makes [UNK] of longer ones
MOST_CHARACTERS = 24  # of a stretch that is not plain: longer ones (Chinese sentences) hardly come twice

Int32 = npt.NDArray[np.int32]


class Words:
    """Tokenises texts as their tokenizer would, by words.

    Args:
        tokenizer: whose words they are.
        lowercase: whether its normalizer lowers case.
        special: texts that it looks for before anything else.
        ascii_only: whether only ASCII text may be taken apart: special texts are looked for after normalizing.
    """

    def __init__(self, tokenizer: Tokenizer, lowercase: bool, special: Sequence[str], ascii_only: bool) -> None:
        self._tokenizer = tokenizer
        self._lowercase = lowercase
        self._special = [text.lower() for text in special]
        self._ascii_only = ascii_only
        self._known: dict[str, bytes] = {}  # a word's ids as int32

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Words | None:
        """Return the short way for a BERT tokenizer, None if it is another kind."""
        content = json.loads(tokenizer.to_str())
        normalizer, splitter = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
        bert = normalizer.get("type") == "BertNormalizer" and splitter.get("type") == "BertPreTokenizer"
        if not bert or content["model"].get("type") != "WordPiece" or not normalizer.get("clean_text"):
            return None
        added = content.get("added_tokens", ())
        normalized = any(token.get("normalized") for token in added)
        return cls(tokenizer, bool(normalizer.get("lowercase")), [token["content"] for token in added], normalized)

    def ids(self, text: str) -> Int32 | None:
        """Return a text's ids without special tokens, int32 [tokens]; None if it is for the tokenizer."""
        lowered = text.lower()
        if any(special in lowered for special in self._special):
            return None
        plain = text.isascii() and PLAIN.fullmatch(text) is not None
        words = WORDS.findall(lowered if self._lowercase else text) if plain else self._split(text)
        if words is None:
            return None
        known = self._known
        try:
            joined = b"".join([known[word] for word in words])
        except KeyError:
            try:
                joined = b"".join(self._learn(words))
            except (UnicodeEncodeError, TypeError):  # half a surrogate pair
                return None
        return np.frombuffer(joined, dtype=np.int32)

    def _split(self, text: str) -> list[str] | None:
        if self._ascii_only:
            return None
        words: list[str] = []
        for stretch in SPACES.split(text):
            if stretch.isascii() and PLAIN.fullmatch(stretch) is not None:
                words += WORDS.findall(stretch.lower() if self._lowercase else stretch)
            elif len(stretch) > MOST_CHARACTERS:
                return None
            else:
                words.append(stretch)
        return words

    def _learn(self, words: Sequence[str]) -> list[bytes]:
        """Return the words' ids, having asked the tokenizer for those of new words."""
        if len(self._known) > MOST_WORDS:
            self._known = {}
        known = self._known
        own = {word: known[word] for word in words if word in known}  # another thread may begin the dictionary anew
        for word in set(words) - own.keys():
            encoding = self._tokenizer.encode(word, add_special_tokens=False)
            own[word] = np.array(encoding.ids, dtype=np.int32).tobytes()
            if len(word) <= LONGEST_WORD:
                known[word] = own[word]
        return [own[word] for word in words]
