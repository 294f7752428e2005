"""What `ranker serve` may be told: one tree of options, from a YAML file and the command line, every one checked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.untrusted.json_schema import Within, broken
from rankdistill.export.serve.scheduling.policy import POLICIES
from rankdistill.export.yaml_file import read_yaml

SHORTEST_TOKEN = 16  # characters; a shorter one can be guessed
TOKEN = re.compile(r"[!-~]+")  # what an HTTP header can hold, without spaces
LONG_S = 86_400.0
HEAD = 500  # requests that are remembered as the most frequent ones
PATHS = {"file", "head", "watch", "key", "states"}  # options; an address keeps its slashes
LEAST_CACHE_MB = 0.01


def _option(default: Any, allowed: Any) -> Any:
    return field(default=default, metadata={"allowed": allowed})


@dataclass(frozen=True)
class Tokens:
    """Where bearer tokens come from; never the command line, which other users of a machine can read.

    Attributes:
        env: environment variable with tokens, separated by commas or spaces.
        file: file with one token a line; null for none.
    """

    env: str = _option("RANKER_TOKENS", re.compile(r"[A-Za-z_][A-Za-z0-9_]*"))
    file: str | None = _option(None, str)

    def read(self) -> tuple[str, ...]:
        """Return all tokens; none if neither source has any.

        Raises:
            UserError: if the file cannot be read, or a token is short or no header could hold it.
        """
        found = os.environ.get(self.env, "").replace(",", " ").split()
        if self.file is not None:
            try:
                lines = Path(self.file).read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{self.file}: {getattr(error, 'strerror', None) or 'no UTF-8'}") from error
            found += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
            if not found:
                raise UserError(f"{self.file}: no token in it; one a line")
        for number, token in enumerate(found, 1):
            if len(token) < SHORTEST_TOKEN or not TOKEN.fullmatch(token):
                raise UserError(f"token {number}: at least {SHORTEST_TOKEN} visible ASCII characters, without spaces")
        return tuple(found)


@dataclass(frozen=True)
class AdminTokens(Tokens):
    """As `Tokens`, for /admin: models are swapped in and out with them; without any there is no /admin."""

    env: str = _option("RANKER_ADMIN_TOKENS", re.compile(r"[A-Za-z_][A-Za-z0-9_]*"))


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        body_bytes: of a request.
        texts: of a request.
        text_characters: of its query, and of each text.
        concurrency: requests that wait or are worked on; beyond it 429.
        connections: open at once; beyond it new ones are closed.
        receive_s: seconds in which a request must have come in whole, and its answer must have been taken.
    """

    body_bytes: int = _option(4_000_000, Within(int, 1, 1 << 30))
    texts: int = _option(1_000, Within(int, 1, 100_000))
    text_characters: int = _option(100_000, Within(int, 1, 1 << 30))
    concurrency: int = _option(256, Within(int, 1, 100_000))
    connections: int = _option(4_096, Within(int, 1, 1_000_000))
    receive_s: float = _option(10.0, Within(float, 0.1, LONG_S))


@dataclass(frozen=True)
class Queue:
    """In which order requests are served (`rankdistill.export.serve.scheduling.policy`).

    Attributes:
        policy: fifo, priority, edf or sjf.
        age_s: seconds of waiting that make up for one class of priority.
        deadline_ms: after which a request that names no deadline is given up; null for never.
    """

    policy: str = _option("priority", re.compile("|".join(POLICIES)))
    age_s: float = _option(1.0, Within(float, 0.0, LONG_S))
    deadline_ms: int | None = _option(None, Within(int, 1, int(LONG_S * 1000)))


@dataclass(frozen=True)
class Cache:
    """Scores that are kept.

    Attributes:
        mb: memory of a process for them, in 10^6 bytes; 0 keeps none.
        redis: URL of a Redis or Valkey that replicas share; null for none.
        ttl_s: seconds after which a shared score is forgotten.
        timeout_ms: that a shared score is waited for.
        head: file that keeps the most frequent requests, with their texts, for the next start; null for none.
    """

    mb: float = _option(64.0, Within(float, 0.0, 1e6))
    redis: str | None = _option(None, re.compile(r"(redis|rediss|unix)://.+"))
    ttl_s: int = _option(86_400, Within(int, 1, 10 * 365 * 86_400))
    timeout_ms: int = _option(20, Within(int, 1, 10_000))
    head: str | None = _option(None, str)


@dataclass(frozen=True)
class Log:
    """What is written to standard error.

    Attributes:
        requests: a JSON line for each request, without its texts.
        texts: with its texts.
    """

    requests: bool = _option(False, bool)
    texts: bool = _option(False, bool)


@dataclass(frozen=True)
class Govern:
    """Moving along a cascade's levels with the load (`rankdistill.export.serve.models.governor`).

    Attributes:
        p99_ms: 99th percentile of the time to an answer that is to be held; null for one fixed level.
        floor: lowest retention that may ever be served, 0 to 1.
    """

    p99_ms: float | None = _option(None, Within(float, 0.1, LONG_S * 1000))
    floor: float = _option(0.0, Within(float, 0.0, 1.0))


@dataclass(frozen=True)
class Reloading:
    """Letting new bundles in while requests are answered (`rankdistill.export.serve.models.reload`).

    Attributes:
        watch: folder or link that is looked at, or http(s) address of a tar archive; null for none.
        interval_s: between two looks.
        key: public key (PEM) that must have signed a bundle; null to ask for no signature.
        share: of live requests that a candidate is tried on too; 0 lets it in by its checks alone.
        requests: that a trial takes.
        max_slowdown: most of a candidate's thread time over that of the model that answers.
        min_overlap: least mean overlap of the two models' first ten items.
        max_errors: most requests that a candidate may fail.
        seconds: after which fewer requests are enough.
        warm: most frequent requests that a candidate scores before it answers, if there is a cache.
    """

    watch: str | None = _option(None, str)
    interval_s: float = _option(5.0, Within(float, 0.05, LONG_S))
    key: str | None = _option(None, str)
    share: float = _option(0.1, Within(float, 0.0, 1.0))
    requests: int = _option(50, Within(int, 1, 1_000_000))
    max_slowdown: float = _option(1.5, Within(float, 0.01, 1e6))
    min_overlap: float = _option(0.5, Within(float, 0.0, 1.0))
    max_errors: int = _option(0, Within(int, 0, 1_000_000))
    seconds: float = _option(60.0, Within(float, 0.1, LONG_S))
    warm: int = _option(200, Within(int, 0, HEAD))


@dataclass(frozen=True)
class Settings:
    """All options of the service.

    Attributes:
        host: address to listen on; any but a loopback one needs tokens.
        port: 0 for a free one.
        workers: processes that share the port, and the threads.
        threads: that score, over all workers; null for every core.
        variant: the bundle's graph to run; null for the one for this processor.
        states: folder of `ranker states`, from which a split student scores; null for none.
        level: of the bundle's cascade; null for the one that holds its tolerance.
        drain_s: seconds that requests in flight have after SIGTERM.
    """

    host: str = _option("127.0.0.1", re.compile(r"[A-Za-z0-9.:_\-]{1,253}"))
    port: int = _option(8080, Within(int, 0, 65_535))
    workers: int = _option(1, Within(int, 1, 256))
    threads: int | None = _option(None, Within(int, 1, 1_024))
    variant: str | None = _option(None, str)
    states: str | None = _option(None, str)
    level: str | None = _option(None, str)
    drain_s: int = _option(30, Within(int, 0, 3_600))
    tokens: Tokens = field(default_factory=Tokens)
    admin: AdminTokens = field(default_factory=AdminTokens)
    limits: Limits = field(default_factory=Limits)
    queue: Queue = field(default_factory=Queue)
    cache: Cache = field(default_factory=Cache)
    governor: Govern = field(default_factory=Govern)
    reload: Reloading = field(default_factory=Reloading)
    log: Log = field(default_factory=Log)

    @classmethod
    def read(cls, path: Path | None, overrides: Mapping[str, Any]) -> Settings:
        """Read a YAML file.

        Args:
            path: of the file; None for the defaults.
            overrides: options of the top level that take precedence; those that are None do not.

        Raises:
            UserError: if it is no YAML, or an option is unknown or not allowed; every mistake has a line.
        """
        content: Any = {}
        if path is not None:
            content = read_yaml(path)
            content = {} if content is None else content
        if not isinstance(content, dict):
            raise UserError(f"{path}: no settings; options such as port: 8080 are needed")
        given = content | {name: value for name, value in overrides.items() if value is not None}
        mistakes = [*_mistakes(cls, given, "")]
        if mistakes:
            raise UserError("\n".join(f"{path}: {mistake}" if path else mistake for mistake in mistakes))
        settings: Settings = _build(cls, given)
        for mistake in _contradictions(settings):
            raise UserError(mistake)
        return settings


def _contradictions(settings: Settings) -> Iterator[str]:
    """Yield what is wrong with settings in which each value by itself is right."""
    if 0 < settings.cache.mb < LEAST_CACHE_MB:
        yield f"cache.mb={settings.cache.mb}: 0 for none, or at least {LEAST_CACHE_MB}"
    if settings.cache.redis is not None and not settings.cache.mb:
        yield "cache.redis needs cache.mb > 0: what is fetched is kept in memory first"
    if settings.governor.p99_ms is not None and settings.level is not None:
        yield f"governor.p99_ms and level={settings.level}: a fixed level, or one that moves"
    if settings.cache.head is not None and not settings.cache.mb:
        yield "cache.head needs cache.mb > 0: it says what the cache is filled with"
    if settings.cache.head is not None and not Path(settings.cache.head).parent.is_dir():
        yield f"cache.head={settings.cache.head}: its folder is not there"
    if settings.reload.key is not None and not Path(settings.reload.key).is_file():
        yield f"reload.key={settings.reload.key}: no such file"
    if settings.reload.watch is not None:
        yield from _watch_mistakes(settings.reload.watch)
    if settings.log.texts and not settings.log.requests:
        yield "log.texts=true needs log.requests=true: texts are written with their request"


def _watch_mistakes(where: str) -> Iterator[str]:
    if where.startswith(("http://", "https://")):
        try:
            parts = urlsplit(where)
            port = parts.port
        except ValueError as error:
            yield f"reload.watch={where}: no address: {error}"
            return
        if not parts.hostname or port == 0 or not where.isprintable() or " " in where:
            yield f"reload.watch={where}: no address; allowed is http(s)://HOST[:PORT]/PATH"
    elif not Path(where).parent.is_dir():
        yield f"reload.watch={where}: neither a folder, nor is there one to hold it"


def _mistakes(kind: Any, given: Any, where: str) -> Iterator[str]:
    if not isinstance(given, dict):
        yield f"{where} is {given!r:.40}, not a group of options"
        return
    known = {each.name: each for each in fields(kind)}
    for name, value in given.items():
        full = f"{where}.{name}".lstrip(".")
        if name not in known:
            yield f"{full}: no such option; {where or 'there'} has {', '.join(known)}"
            continue
        option = known[name]
        if "allowed" not in option.metadata:
            yield from _mistakes(option.default_factory, value, full)
        elif not (value is None and option.default is None):
            nullable = " (or null)" if option.default is None else ""
            yield from (f"{line}{nullable}" for line in broken(value, option.metadata["allowed"], full))


def _build(kind: Any, given: Mapping[str, Any]) -> Any:
    groups = {each.name: each.default_factory for each in fields(kind) if "allowed" not in each.metadata}
    values = {name: _build(groups[name], value) if name in groups else value for name, value in given.items()}
    paths = {name: os.path.expanduser(values[name]) for name in PATHS & values.keys() if values[name]}  # noqa: PTH111
    return kind(**values | paths)
