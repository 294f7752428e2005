"""What commands print: output that cannot be written is a mistake like others, told in one line."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

import typer

from export.errors import UserError


def say(text: str, fg: str | None = None) -> None:
    """Print a line.

    Args:
        text: of the line.
        fg: its colour; None for none.

    Raises:
        UserError: if it cannot be written, but for a reader that has gone.
    """
    with printing():
        typer.echo(text if fg is None else typer.style(text, fg=fg))


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Raise a UserError where standard output cannot be written, but for a reader that has gone."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(io.UnsupportedOperation):  # what was not written would fail once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise UserError(f"the output cannot be written: {error.strerror}") from error
