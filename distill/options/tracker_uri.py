"""A tracker's URI: what it can be, and which file and folder a local one means."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

SQLITE = "sqlite:///"
ARTIFACTS = "mlflow-artifacts"  # folder beside a database, for the files that do not go into it
FORMS = "sqlite:///FILE or the http(s)://HOST:PORT of an MLflow server"


def uri_problem(uri: str) -> str | None:
    """Return what is wrong with a URI as far as can be known without a network: what is allowed, None if nothing is."""
    try:
        parts = urlsplit(uri)
        host, secret, _ = parts.hostname, parts.password, parts.port
    except ValueError:
        return FORMS
    if parts.scheme == "file" or not parts.scheme:
        return f"{FORMS}; MLflow itself has given up its store of plain files"
    if parts.scheme not in ("sqlite", "http", "https"):
        return FORMS
    if parts.scheme == "sqlite":
        if not uri.startswith(SQLITE) or uri == SQLITE or "?" in uri:
            return "sqlite:///FILE"
        if "%" in uri:  # what %20 stands for would be opened, not what is written
            return "sqlite:///FILE without % in its path; give another track.uri (--uri), or a link to the folder"
        return None
    if secret is not None:  # it would stand in config.yaml and the log
        return "a URI without a password; give it as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return None if host else FORMS


def without_password(uri: str) -> str:
    """Return a URI as it may be shown."""
    return re.sub(r"(//[^/@:]*):[^/@]*@", r"\1:***@", uri)


def database(uri: str) -> Path | None:
    """Return the file of a local store; None for a server."""
    return Path(uri[len(SQLITE) :]).absolute() if uri.startswith(SQLITE) else None
