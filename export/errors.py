"""Errors whose message is the whole story for a user: what was wrong, where, what to do."""


class UserError(Exception):
    """Something a user can mend; shown as one line, the traceback goes to the log."""


class GraphError(UserError):
    """A graph does not hold what was asked for."""


class ModelError(UserError):
    """A model folder cannot be used as a ranker."""


class BundleError(UserError):
    """A bundle is not whole, not safe, or not a bundle."""


PANIC = "PanicException"  # pyo3's, of a panic of a library's Rust: a BaseException of a module that cannot be imported


def is_fault(error: BaseException) -> bool:
    """Return whether it tells of a fault, a panic of Rust among them, and does not ask the program to end."""
    return isinstance(error, Exception) or type(error).__name__ == PANIC
