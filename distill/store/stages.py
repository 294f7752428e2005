"""The store of stages: a content-addressed folder for each finished piece of work, built once and reused.

A stage's key hashes what shapes its output. It is built in a working folder under a file lock and renamed when it is
whole, so a kill at any instant leaves either the finished stage or none, and two processes never do the same work.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rankdistill import torchrun
from rankdistill.errors import StoreError
from rankdistill.export import machine_lock
from rankdistill.export.files import publish_folder
from rankdistill.export.runtime.untrusted.bounded_files import hash_file
from rankdistill.store.folder_locks import unused, use

log = logging.getLogger(__name__)

KEY_LENGTH = 16  # hex digits: 64 bits, a collision among a million stages has odds of 3e-8
WORK = "work-"  # prefix of a folder still being built; never mistaken for a finished stage
RECORD = "stage.json"


@dataclass(frozen=True)
class Stage:
    """What a stage is, before it is built.

    Attributes:
        name: kind of stage, e.g. "teacher".
        version: stated by the stage's code; raised when the code changes what it writes.
        config: the stage's own resolved options, plain JSON values.
        inputs: keys of the stages it reads, by role.
        files: content hashes of the files it reads, by role.
        libraries: distributions that shape the output.
        host: what of the machine shapes the output (measurements only).
        title: what a person reads in the log; no part of the key.
    """

    name: str
    version: int
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    libraries: Sequence[str] = ()
    host: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""

    def identity(self) -> dict[str, Any]:
        """Return everything that the key hashes."""
        return {
            "stage": self.name,
            "version": self.version,
            "config": dict(self.config),
            "inputs": dict(self.inputs),
            "files": dict(self.files),
            "libraries": {name: public_version(name) for name in sorted(self.libraries)},
            "host": dict(self.host),
        }

    @property
    def key(self) -> str:
        """Name of the stage's folder: `<stage>-<hash>`."""
        text = json.dumps(self.identity(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]}"


def public_version(distribution: str) -> str:
    """Return an installed distribution's version without its local part, "+cpu": other builds share what was made."""
    return importlib.metadata.version(distribution).partition("+")[0]


@dataclass(frozen=True)
class Built:
    """A finished stage: its key, its folder, the seconds its making took, and whether it was reused now."""

    key: str
    folder: Path
    seconds: float
    reused: bool


class Store:
    """Finished stages under one folder.

    Args:
        root: the folder; made when missing.
        holding: whether no other process may remove a stage that this one got, as long as it lives: a run has not
            said yet that it stands on it.

    Raises:
        StoreError: if `root` cannot be written.
    """

    def __init__(self, root: Path, *, holding: bool = False) -> None:
        self.root = root
        self._holding = holding
        try:
            (root / ".locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"the stage store {root} cannot be written: {error.strerror}") from error

    def find(self, key: str) -> Built | None:
        """Return the finished stage of this key, or None."""
        record = self.root / key / RECORD
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{record} is damaged ({error}); delete the folder {record.parent} to make it again"
            ) from error
        return Built(key, self.root / key, float(content["seconds"]), reused=True)

    def lock(self, key: str) -> FileLock:
        """Return the lock that whoever builds or deletes this stage holds."""
        return FileLock(self.root / ".locks" / f"{key}.lock")

    def get(self, stage: Stage, build: Callable[[Path], None], *, every_rank: bool = False) -> Built:
        """Return the finished stage, building it first when it is missing.

        Args:
            stage: what is wanted.
            build: writes the stage's files into the folder it is given. The folder survives a kill and is handed over
                again, so a long build can leave what it needs to go on under `checkpoints/`, which is not published.
            every_rank: under torchrun, whether all processes build together (training) or the first alone.

        Raises:
            StoreError: if the store cannot be written.
        """
        found = self._hold(self.find(stage.key))
        if torchrun.agree(found is not None) and found is not None:
            log.info("%s: reused %s", stage.title or stage.name, stage.key)
            return found
        if not torchrun.is_first():
            return self._follow(stage, build, every_rank)
        with self._held(stage):
            found = self._hold(self.find(stage.key))  # another process may have finished it while this one waited
            torchrun.agree(found is not None)
            built = found if found is not None else self._build(stage, build, every_rank)
            self._hold(built)
            return built

    def _hold(self, found: Built | None) -> Built | None:
        """Return a stage, which nobody can remove from now on; None if somebody is removing it."""
        if found is None or not self._holding:
            return found
        return found if use(found.folder) else None

    @contextmanager
    def _held(self, stage: Stage) -> Iterator[None]:
        lock = self.lock(stage.key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("%s: another process makes %s; waiting for it", stage.title or stage.name, stage.key)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _follow(self, stage: Stage, build: Callable[[Path], None], every_rank: bool) -> Built:
        """Take part as one of the later ranks: the first one decides, locks and publishes."""
        if not torchrun.agree(False):
            if every_rank:
                torchrun.wait()  # until the first process has made the working folder
                build(self._work(stage))
                torchrun.wait()  # until every process has written: the folder is moved next
            torchrun.wait()
        found = self.find(stage.key)
        if found is None:
            raise StoreError(f"{stage.key} was not published by the first process; see its log")
        return found

    def _work(self, stage: Stage) -> Path:
        return self.root / f"{WORK}{stage.key}"

    def _build(self, stage: Stage, build: Callable[[Path], None], every_rank: bool) -> Built:
        work = self._work(stage)
        _clear(work, keep="checkpoints")
        start = time.perf_counter()
        if every_rank:
            torchrun.wait()
        with machine_lock.working():
            build(work)
        if every_rank:
            torchrun.wait()
        seconds = time.perf_counter() - start
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
        record = stage.identity() | {
            "key": stage.key,
            "seconds": round(seconds, 3),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        (work / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        publish_folder(work, self.root / stage.key)
        torchrun.wait()
        log.info("%s: made %s in %.1f s", stage.title or stage.name, stage.key, seconds)
        return Built(stage.key, self.root / stage.key, seconds, reused=False)

    def finished(self) -> list[str]:
        """Return the keys of the finished stages, sorted."""
        return sorted(p.parent.name for p in self.root.glob(f"*/{RECORD}") if not p.parent.name.startswith(WORK))

    def unfinished(self) -> list[Path]:
        """Return the working folders of builds that did not end, sorted."""
        return sorted(self.root.glob(f"{WORK}*"))

    def remove(self, folder: Path, is_used: Callable[[], bool] = lambda: False) -> bool:
        """Delete a stage's folder unless somebody is building it, has deleted it, or uses it.

        Args:
            folder: finished, or a working one.
            is_used: is asked once nobody else can build or delete it.

        Returns:
            Whether it was deleted.
        """
        key = folder.name.removeprefix(WORK)
        lock = self.lock(key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            if not folder.exists() or is_used():
                return False
            with unused(folder) as free:
                if not free:
                    return False
                doomed = folder.with_name(f"{WORK}removed-{key}")  # renamed first: no half a stage under its own name
                shutil.rmtree(doomed, ignore_errors=True)
                folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)  # another prune may be at it: what is left is a killed build's
        finally:
            lock.release()
        return True


def hash_files(paths: Sequence[Path]) -> dict[str, str]:
    """Return the sha256 of each existing file by its name."""
    return {path.name: hash_file(path) for path in sorted(paths) if path.is_file()}


def _clear(folder: Path, keep: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name == keep:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
