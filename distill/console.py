"""What a person sees of the log: short lines on stderr that do not tear a progress bar."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm


class ConsoleHandler(logging.Handler):
    """Writes records to stderr above a running bar, and never a traceback: that goes to the log file."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if record.name.startswith(("distill", "export")) or record.levelno >= logging.WARNING:
            tqdm.write(record.getMessage(), file=sys.stderr)
