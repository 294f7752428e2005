"""What a verification found: a line for each file or check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MOST_CHARACTERS = 400


@dataclass(frozen=True)
class Finding:
    """One line of a verification.

    Attributes:
        ok: whether it is as it should be.
        what: file or check.
        detail: what was found.
        aside: whether it tells of something that no check decides.
    """

    ok: bool
    what: str
    detail: str
    aside: bool = False

    @property
    def mark(self) -> str:
        """What stands before it: a word of five letters."""
        return "     " if self.aside else "ok   " if self.ok else "WRONG"

    def plain(self) -> Finding:
        """Return it as one line that is safe to print, whatever the names and messages of a hostile bundle hold."""
        return Finding(self.ok, _plain(self.what), _plain(" ".join(self.detail.split())), self.aside)


def refusal(folder: Path, name: str, error: BaseException) -> Finding:
    """Return the finding for a file that could not be read or used; its path is told once, and shortly."""
    path, detail = folder / name, str(error)
    for prefix in (f"{path}: ", f"{path} ", f"{name}: ", f"{name}:"):
        detail = detail.removeprefix(prefix)
    return Finding(False, name, detail.replace(str(path), name))


def _plain(text: str) -> str:
    shown = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
