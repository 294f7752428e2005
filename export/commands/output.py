"""What commands print: output that cannot be written is a mistake like others, told in one line."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

import typer

from rankdistill.export.errors import UserError

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # by the numbers of their descriptors


def open_streams() -> None:
    """Let a command print whatever its terminal is: called first, before it opens any file.

    A stream that is closed (`>&-`) becomes one that leads nowhere, so that no file gets its descriptor. A character
    that a terminal's encoding lacks is shown as its code.
    """
    for number, (name, mode) in enumerate(STREAMS):
        with contextlib.suppress(OSError):
            _open_closed(number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - open to the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open_closed(number: int) -> None:
    """Open the null device under a descriptor that is closed."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if opened != number:
            os.close(opened)


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
    except SystemExit as error:  # rich's, of a reader that has gone
        raise BrokenPipeError from error
    except OSError as error:
        mute()  # what was not written would fail once more at the end
        if isinstance(error, BrokenPipeError):
            raise
        raise UserError(f"the output cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def printing_at_best(instead: str) -> Iterator[None]:
    """Print what came of finished work: trouble in printing is told in a line on standard error, and no more.

    Args:
        instead: where what was to be printed stands, in words.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except SystemExit:  # rich's, of a reader that has gone
        mute()
    except (OSError, ValueError) as error:  # a full disk, a reader that has gone, a stream that is closed
        mute()
        if not isinstance(error, BrokenPipeError):
            reason = getattr(error, "strerror", None) or str(error)
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(f"the output cannot be written: {reason}; {instead}\n")


def mute(number: int = 1) -> None:
    """Let standard output (or error, 2) lead nowhere from now on."""
    stream = (sys.stdin, sys.stdout, sys.stderr)[number]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
