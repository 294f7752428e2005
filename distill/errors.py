"""Errors of the distilling half; all are `UserError`s."""

from rankdistill.export.errors import UserError


class ConfigError(UserError):
    """One or more options are wrong; the message lists every one."""


class DataError(UserError):
    """A data set is broken; the message names the file and the line."""


class TooFewError(DataError):
    """Data are sound, but too few to tell something by; more may come."""


class StoreError(UserError):
    """The stage store cannot be read or written."""


class TrackerError(UserError):
    """A tracker did not take a run; the run itself is whole."""


class TrainingError(UserError):
    """A training came to nothing; the message says what shows it and what to try."""
