"""`ranker serve`: its options. What they need is loaded when it is run, so that `ranker --help` needs no web server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankdistill.export.commands.command_options import Folder, StatesFolder, Threads, VariantName


def serve(
    bundle: Folder,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file; what is given here goes before.")] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; without it, 127.0.0.1. Others need tokens.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Without it, 8080; 0 for a free one.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that share the port and the threads; else 1.")
    ] = None,
    threads: Threads = None,
    variant: VariantName = None,
    states: StatesFolder = None,
) -> None:
    """Serve a bundle over HTTP, as text-embeddings-inference, Cohere and Jina do, until SIGTERM."""
    from rankdistill.export.extras import require

    require("serve", "fastapi", "httptools", "msgspec", "prometheus_client", "theine_core", "uvicorn")
    from rankdistill.export.serve.http.request_log import write_line
    from rankdistill.export.serve.server import serve as serve_bundle
    from rankdistill.export.serve.settings import Settings

    given = {"host": host, "port": port, "workers": workers, "threads": threads, "variant": variant}
    given["states"] = None if states is None else str(states)
    serve_bundle(bundle, Settings.read(config, given), write_line)
