"""The tokens of texts seen before: an item's text is the same in every request, so it is tokenised once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rankdistill.export.runtime.text.text_cache import Kept
from rankdistill.export.runtime.text.tokens import Int32


class KeptTokens(Kept[Int32]):
    """Keeps the ids of texts; see `Kept`.

    Args:
        tokenise: returns the ids of texts, one int32 [tokens] each.
        most_bytes: of texts and ids; 0 keeps nothing.
    """

    def __init__(self, tokenise: Callable[[Sequence[str]], list[Int32]], most_bytes: int) -> None:
        super().__init__(most_bytes)
        self._tokenise = tokenise

    def ids(self, texts: Sequence[str]) -> list[Int32]:
        """Return the ids of texts, tokenising those that are not kept; equal texts once."""
        found = self.known(texts)
        missing = list(dict.fromkeys(text for text, ids in zip(texts, found, strict=True) if ids is None))
        if not missing:
            return found  # type: ignore[return-value]  # no None is left
        made = dict(zip(missing, self._tokenise(missing), strict=True))
        self.keep(made)
        return [made[text] if ids is None else ids for text, ids in zip(texts, found, strict=True)]
