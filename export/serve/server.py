"""A process that serves: its socket, its event loop, and how it goes down."""

from __future__ import annotations

import ipaddress
import os
import resource
import signal
import socket
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.cascade import read_cascade
from rankdistill.export.runtime.manifest import CASCADE, Manifest
from rankdistill.export.serve.http.app import create_app
from rankdistill.export.serve.http.protocol import bounded
from rankdistill.export.serve.http.request_log import start_logging
from rankdistill.export.serve.service import Service
from rankdistill.export.serve.settings import Settings
from rankdistill.export.serve.worker_commands import Commands, current
from rankdistill.export.serve.workers import Workers

BACKLOG = 2048  # connections that wait to be accepted
KEEP_ALIVE_S = 75  # between requests; longer than load balancers keep theirs, so that they are the ones who close
SPARE_FILES = 256  # descriptors beside the connections'


def serve(bundle: Path, settings: Settings, tell: Callable[[str], None]) -> None:
    """Serve a bundle until SIGTERM or SIGINT.

    Args:
        bundle: its folder.
        settings: of the service.
        tell: gets a line when requests are welcome.

    Raises:
        UserError: if others than this machine could ask without a token, the address cannot be had, or the bundle
            cannot be served.
    """
    tokens = settings.tokens.read()
    if not tokens and not _is_loopback(settings.host):
        raise UserError(
            f"host={settings.host} is open to other machines: set tokens in the variable {settings.tokens.env}, or in "
            "the file tokens.file"
        )
    manifest = Manifest.read(bundle)
    name = manifest.content["name"]
    graph = manifest.variant(settings.variant).name
    if CASCADE in manifest.content["files"]:
        graph = settings.level or str(read_cascade(manifest)["default"])
        graph = graph if settings.governor.p99_ms is None else "its cascade's levels, governed"
    listener = _listen(settings.host, settings.port)
    files = _raise_open_files(settings.limits.connections + SPARE_FILES)
    limits = replace(settings.limits, connections=max(1, min(settings.limits.connections, files - SPARE_FILES)))
    settings = replace(settings, limits=limits)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    line = f"serving {name} ({graph}) on {address}, documented at {address}/docs"
    settings.admin.read()  # a mistake in it is told before workers begin
    with tempfile.TemporaryDirectory(prefix="ranker-commands-") as folder:
        # a worker that is replaced begins with what answers, not with what its link leads to by then
        Commands(Path(folder)).keep_current(manifest)
        run_here = partial(run, commands=Path(folder))
        if settings.workers == 1:
            run_here(bundle, settings, listener, lambda: tell(line))
        else:
            Workers(bundle, settings, listener, run_here).run(lambda: tell(line))


def run(
    bundle: Path, settings: Settings, listener: socket.socket, ready: Callable[[], None], commands: Path | None = None
) -> None:
    """Serve in this process, over a socket that is bound, until a signal.

    Args:
        bundle: its folder.
        settings: of the service.
        listener: may be shared with other processes.
        ready: is called when requests are welcome.
        commands: folder in which all workers find what /admin tells them; None for no /admin.

    Raises:
        UserError: if the bundle cannot be served.
    """
    admin_tokens = settings.admin.read()
    swapped_in = None if commands is None else current(commands)
    service = Service.load(swapped_in or bundle, settings)
    lines = start_logging()
    app = create_app(service, settings.tokens.read(), admin_tokens, commands)
    try:
        _Server(configure(app, settings), service, ready).run([listener])
    finally:
        service.close()
        lines.stop()


def configure(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return how uvicorn serves an application.

    Args:
        app: what is served.
        settings: of the service.
    """
    return uvicorn.Config(
        app, http=bounded(settings.limits), ws="none", lifespan="on", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.drain_s,
    )  # fmt: skip


class _Server(uvicorn.Server):
    """uvicorn's server, which also says when it is up and lets its service know when it goes down."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._ready = service, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain; a second Ctrl-C does not wait. uvicorn dies of the signal in the end, this process ends with 0."""
        self._service.drain()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, which may lead anywhere


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise UserError(f"host={host}, port={port}: {error.strerror or error}") from error
    os.set_inheritable(listener.fileno(), True)
    return listener


def _raise_open_files(wanted: int) -> int:
    """Let this process, and those that it starts, open as many files as are wanted, if it may; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
