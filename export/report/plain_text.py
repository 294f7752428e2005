"""Text that anybody may have written, for places where some characters would mean something else."""

from __future__ import annotations

import re

# control characters, halves of surrogate pairs and what is no character: XML holds none, terminals obey some
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
IN_LINES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
MARKUP = re.compile(r"[\\|`*]|<(?=[a-zA-Z/!?])")


def visible(text: str, *, lines: bool = False) -> str:
    """Return a text whose control characters are escaped as Python does, so that XML, HTML and JSON can hold it.

    Args:
        text: any.
        lines: whether tabs and ends of lines stay.
    """
    return (IN_LINES if lines else CONTROL).sub(lambda match: _escaped(match[0]), text)


def one_line(text: str) -> str:
    """Return a text as one line that is safe to print on a terminal."""
    plain = " ".join(text.split())
    return "".join(character if character.isprintable() else _escaped(character) for character in plain)


def markdown(text: str) -> str:
    """Return a text as Markdown shows it, in the cell of a table too."""
    return MARKUP.sub(lambda match: f"\\{match[0]}", visible(text))


def code(text: str) -> str:
    """Return a text as Markdown's code, outside of tables."""
    text = visible(text) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{room}{text}{room}{fence}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
