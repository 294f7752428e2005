"""Errors whose message is the whole story for a user: what was wrong, where, what to do."""


class UserError(Exception):
    """Something a user can mend; shown as one line, the traceback goes to the log."""


class GraphError(UserError):
    """A graph does not hold what was asked for."""


class ModelError(UserError):
    """A model folder cannot be used as a ranker."""


class BundleError(UserError):
    """A bundle is not whole, not safe, or not a bundle."""
