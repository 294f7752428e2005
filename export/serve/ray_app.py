"""The service on Ray Serve, for those who outgrow one machine: each replica is a process with the bundle of its own.

    serve run rankdistill.export.serve.ray_app:app bundle=BUNDLE replicas=2
    serve deploy ray.yaml

Ray's proxies take the requests and pass each to one of the replicas; in a replica it goes the way of `ranker serve`:
limits, priorities, deadlines, the cache, cascades, the governor, new bundles from a watched path or address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from rankdistill.export.errors import UserError
from rankdistill.export.extras import require
from rankdistill.export.runtime.manifest import Manifest
from rankdistill.export.serve.settings import Settings

NAME = "Ranker"  # of the deployment, by which a configuration sets its replicas
SPARE = 32  # requests beside those that wait: probes, and those that are told 429, which Ray would else hold back
ARGUMENTS = ("bundle", "config", "settings", "replicas", "open")
# ranker serve's own matters: Ray's proxies listen, its replicas are the workers
NOT_HERE = ("host", "port", "workers")


def app(arguments: Mapping[str, Any]) -> Any:
    """Return Ray's application, as an import path of `serve run` and of a configuration.

    Args:
        arguments: `bundle`, its folder on every machine; `config`, a YAML file of settings on the machine that deploys,
            or `settings`, the same written out; `replicas`, a number or auto, which a configuration's `deployments`
            overrule; `open: true`, to go without tokens: Ray's proxies may listen where
            others than this machine ask, and nobody here knows.

    Raises:
        UserError: if the bundle or the settings are not right, or neither tokens nor `open` are given.
    """
    require("ray", "ray", "opencensus")  # the latter is not brought by ray alone
    from ray import serve

    asked = _Asked.read(arguments)
    settings = asked.settings
    if not asked.open and not settings.tokens.read():
        raise UserError(
            f"no tokens: set them in the variable {settings.tokens.env}, or in the file tokens.file, or give open=true "
            "if nobody else can reach Ray's proxies"
        )
    threads = settings.threads or 1
    deployment = serve.deployment(
        name=NAME,
        num_replicas=asked.replicas,
        ray_actor_options={"num_cpus": threads},
        max_ongoing_requests=settings.limits.concurrency + SPARE,
        graceful_shutdown_timeout_s=settings.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
    )(serve.ingress(_builder(asked.bundle, replace(settings, threads=threads), asked.open))())
    return deployment.bind()


@dataclass(frozen=True)
class _Asked:
    """What the arguments say."""

    bundle: Path
    settings: Settings
    replicas: int | str
    open: bool

    @classmethod
    def read(cls, arguments: Mapping[str, Any]) -> _Asked:
        if unknown := sorted(set(arguments) - set(ARGUMENTS)):
            raise UserError(f"{', '.join(unknown)}: no such argument; there are {', '.join(ARGUMENTS)}")
        if "bundle" not in arguments:
            raise UserError("bundle=FOLDER is needed: the bundle's folder, on every machine")
        opened, replicas = (str(arguments.get(name, default)) for name, default in (("open", False), ("replicas", 1)))
        if opened.lower() not in ("true", "false"):
            raise UserError(f"open={opened}: true or false")
        if replicas != "auto" and not (replicas.isdecimal() and int(replicas) > 0):
            raise UserError(f"replicas={replicas}: auto, or a number >= 1")
        bundle = Path(arguments["bundle"]).expanduser().resolve()
        Manifest.read(bundle)
        count = replicas if replicas == "auto" else int(replicas)
        return cls(bundle, _settings(arguments), count, opened.lower() == "true")


def _settings(arguments: Mapping[str, Any]) -> Settings:
    config, written = arguments.get("config"), arguments.get("settings", {})
    if not isinstance(written, Mapping) or (config and written):
        raise UserError("settings are options with their values, in place of config, which is a file of them")
    settings = Settings.read(Path(config) if config else None, written)
    for name in NOT_HERE:
        if getattr(settings, name) != getattr(Settings(), name):
            raise UserError(f"{name}={getattr(settings, name)}: of ranker serve; here Ray has its own")
    if settings.admin.read():
        raise UserError(f"{settings.admin.env}: no /admin here, it would reach one replica; use reload.watch")
    return settings


def _builder(bundle: Path, settings: Settings, opened: bool) -> Callable[[], FastAPI]:
    """Return what a replica makes its application with."""

    def build() -> FastAPI:
        from rankdistill.export.serve.http.app import create_app
        from rankdistill.export.serve.http.request_log import start_logging
        from rankdistill.export.serve.service import Service

        start_logging()
        tokens = settings.tokens.read()  # the replica's machine has its own environment and files
        if not tokens and not opened:
            raise UserError(f"no tokens on this replica's machine: set the variable {settings.tokens.env} for it too")
        return create_app(Service.load(bundle, settings), tokens)

    return build
