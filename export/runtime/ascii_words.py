"""A short way to the tokens of plain ASCII text: word by word, each word's tokens found by the tokenizer once.

BERT's normalizer and pre-tokenizer do little to such text (lower case, words and single punctuation marks), and
WordPiece looks at one word at a time. Everything else (other scripts, control characters, special tokens) is left to
the tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

PLAIN = re.compile(r"[\t\n\r -~]*")
WORDS = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]")  # BertPreTokenizer: words between spaces and punctuation marks
MOST_WORDS = 50_000  # kept at once, about 10 MB

Int32 = npt.NDArray[np.int32]


class AsciiWords:
    """Tokenises plain ASCII text as its tokenizer would.

    Args:
        tokenizer: whose words they are.
        lowercase: whether its normalizer lowers case.
        special: texts that it looks for before anything else.
    """

    def __init__(self, tokenizer: Tokenizer, lowercase: bool, special: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._lowercase = lowercase
        self._special = [text.lower() for text in special]
        self._known: dict[str, bytes] = {}  # a word's ids as int32

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> AsciiWords | None:
        """Return the short way for a BERT tokenizer, None if it is another kind."""
        content = json.loads(tokenizer.to_str())
        normalizer, splitter = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
        bert = normalizer.get("type") == "BertNormalizer" and splitter.get("type") == "BertPreTokenizer"
        if not bert or content["model"].get("type") != "WordPiece" or not normalizer.get("clean_text"):
            return None
        special = [token["content"] for token in content.get("added_tokens", ())]
        return cls(tokenizer, bool(normalizer.get("lowercase")), special)

    def ids(self, text: str) -> Int32 | None:
        """Return a text's ids without special tokens, int32 [tokens]; None if it is not plain."""
        if not text.isascii() or PLAIN.fullmatch(text) is None:
            return None
        lowered = text.lower()
        if any(special in lowered for special in self._special):
            return None
        words = WORDS.findall(lowered if self._lowercase else text)
        known = self._known
        try:
            joined = b"".join([known[word] for word in words])
        except KeyError:
            joined = b"".join(self._learn(words))
        return np.frombuffer(joined, dtype=np.int32)

    def _learn(self, words: Sequence[str]) -> list[bytes]:
        """Return the words' ids, having asked the tokenizer for those of new words."""
        if len(self._known) > MOST_WORDS:
            self._known = {}
        known = self._known
        own = {word: known[word] for word in words if word in known}  # another thread may begin the dictionary anew
        for word in set(words) - own.keys():
            encoding = self._tokenizer.encode(word, add_special_tokens=False)
            own[word] = known[word] = np.array(encoding.ids, dtype=np.int32).tobytes()
        return [own[word] for word in words]
