"""What a person sees of the log: short lines on stderr that do not tear a progress bar."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm

from rankdistill.export.commands.output import mute


class ConsoleHandler(logging.Handler):
    """Writes the project's and Hydra's records and others' errors to stderr, above a running bar; never a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; what comes with a traceback is told by the command and kept in the log file."""
        ours = record.name.startswith(("rankdistill", "hydra"))
        if record.exc_info is None and (ours or record.levelno >= logging.ERROR):
            try:
                tqdm.write(record.getMessage(), file=sys.stderr)
            except (OSError, ValueError):  # a terminal that has gone, a full disk: no reason to end the work
                mute(2)
