"""The versions of a student under one folder, and the link to the one that is served.

    FOLDER/current -> versions/0002/bundle     what `ranker serve FOLDER/current` watches
    FOLDER/versions/0002/bundle/               an ordinary bundle
    FOLDER/versions/0002/state/                what the next update goes on with: cursor, ids seen, lists, moments
    FOLDER/versions/0002/version.json          where it comes from, and what held

A version's folder appears whole, by a rename, and is never changed; `current` is set to it by another. A version is one
that was published only if `current` has been set to it: what a kill left between the two steps is deleted by the next
update. So the cursor that counts is always the one beside the bundle that is served.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rankdistill.errors import StoreError
from rankdistill.export.errors import UserError
from rankdistill.export.files import folder_beside, publish_folder

CURRENT, VERSIONS, BUNDLE, STATE, RECORD = "current", "versions", "bundle", "state", "version.json"
REFUSED, LOCK = "refused.json", ".lock"
NAME = re.compile(r"\d{4,}")
FIRST, UPDATE, ROLLBACK, SET_ASIDE = "first", "update", "rollback", "set aside"  # how a version came about
SHARED = (ROLLBACK, SET_ASIDE)  # whose student is an earlier version's


@dataclass(frozen=True)
class Version:
    """A published version: its number, its folder, and what its record says."""

    number: int
    folder: Path
    record: dict[str, Any]

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.folder / BUNDLE

    @property
    def state(self) -> Path:
        """The folder of what the next update goes on with."""
        return self.folder / STATE


class Published:
    """A folder of versions.

    Args:
        folder: made when something is published in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.versions = self.folder / VERSIONS

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who publishes here, until the end of the block or of the process.

        Raises:
            UserError: if another process is.
        """
        self.versions.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"published={self.folder}: another distill-update works there; one at a time") from None
        try:
            self._clean()
            yield
        finally:
            lock.release()

    def current(self) -> Version | None:
        """Return the version that is served; None before the first.

        Raises:
            StoreError: if the link leads nowhere, or its version's record is broken.
        """
        link = self.folder / CURRENT
        if not link.is_symlink():
            if link.exists():
                raise StoreError(f"{link} is no link; give a folder of versions as published=")
            return None
        folder = (self.folder / link.readlink()).parent
        if folder.parent != self.versions or not (folder / RECORD).is_file():
            raise StoreError(f"{link} leads to {link.readlink()}, no version of this folder")
        return self._read(folder)

    def all(self) -> list[Version]:
        """Return every version that was published, the oldest first."""
        last = self._last()
        return [self._read(folder) for number, folder in self._folders() if number <= last]

    def find(self, number: int) -> Version:
        """Return a version by its number.

        Raises:
            UserError: if there is none.
        """
        versions = self.all()
        for version in versions:
            if version.number == number:
                return version
        there = ", ".join(str(version.number) for version in versions)
        raise UserError(f"{self.folder} has no version {number} to go back to; it has {there or 'none'}")

    def student_of(self, version: Version) -> Version:
        """Return the version that a version's student was first published with, or the first of those not pruned."""
        there = {each.number: each for each in self.all()}
        while version.record["kind"] in SHARED and (parent := there.get(int(version.record["parent"]))) is not None:
            version = parent
        return version

    def before(self, version: Version) -> Version:
        """Return the version whose student a version's student was made of.

        Raises:
            UserError: if it is the first, or what was before has been pruned.
        """
        student = self.student_of(version)
        if student.record["kind"] == FIRST:
            raise UserError(f"{self.folder}: version {version.number} has the first student; there is none before it")
        if student.record["kind"] in SHARED:
            raise UserError(f"{self.folder}: what the student of version {version.number} was made of has been pruned")
        return self.student_of(self.find(int(student.record["parent"])))

    @contextmanager
    def next(self) -> Iterator[tuple[int, Path]]:
        """Give the next version's number and an empty folder for it, to be filled and given to `publish`."""
        number = self._last() + 1
        with folder_beside(self._folder(number)) as work:
            yield number, work

    def publish(self, number: int, work: Path, record: dict[str, Any]) -> Version:
        """Make a finished version the one that is served: its folder appears, then the link is set to it.

        Args:
            number: of the version.
            work: its folder, with bundle and state.
            record: what is told of it; its number and time are added.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"version": number, "published": now} | record
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (work / RECORD).write_text(text, encoding="utf-8")
        final = self._folder(number)
        publish_folder(work, final)
        self._link(final)
        return Version(number, final, record)

    def copy(self, source: Path, target: Path) -> None:
        """Give a version's folder another name for the same files, which never change; copies where none can be."""
        shutil.copytree(source, target, copy_function=_same_file)

    def prune(self, keep: int) -> list[int]:
        """Delete all but the newest `keep` students; return the numbers of the versions that went.

        Versions that share a student (a rollback, events set aside) count for nothing: refused events do not push out
        what one may want to go back to.

        Args:
            keep: students, >= 1; the version before the current one stays too, as a service may still answer from it,
                and what is gone back to from that one.
        """
        versions = self.all()
        students = [version.number for version in versions if version.record["kind"] in (FIRST, UPDATE)]
        oldest = min([*students[-keep:], *(version.number for version in versions[-2:])], default=0)
        needed = self._needed()
        gone = [version for version in versions if version.number < oldest and version.number not in needed]
        for version in gone:
            doomed = version.folder.with_name(f".{version.folder.name}.removed")
            version.folder.rename(doomed)  # renamed first: no half a version under its own name
            shutil.rmtree(doomed)
        return [version.number for version in gone]

    def _needed(self) -> set[int]:
        """Return the numbers of the versions that tell what the served student was made of, and have it."""
        current = self.current()
        if current is None:
            return set()
        student = self.student_of(current)
        return {student.number, int(student.record.get("parent", student.number))}

    def _link(self, folder: Path) -> None:
        new = self.folder / f".{CURRENT}.{os.getpid()}"
        new.unlink(missing_ok=True)
        new.symlink_to(Path(VERSIONS) / folder.name / BUNDLE)
        new.replace(self.folder / CURRENT)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _clean(self) -> None:
        """Delete what killed processes left: versions that `current` was never set to, links, halves."""
        last = self._last()
        for number, folder in self._folders():
            if number > last:
                shutil.rmtree(folder)
        for path in [*self.versions.glob(".*.removed"), *self.folder.glob(f".{CURRENT}.*")]:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _last(self) -> int:
        """Return the number of the newest published version, which is the current one; -1 before the first."""
        current = self.current()
        return -1 if current is None else current.number

    def _folders(self) -> list[tuple[int, Path]]:
        if not self.versions.is_dir():
            return []
        return sorted((int(path.name), path) for path in self.versions.iterdir() if NAME.fullmatch(path.name))

    def _folder(self, number: int) -> Path:
        return self.versions / f"{number:04d}"

    def _read(self, folder: Path) -> Version:
        path = folder / RECORD
        try:
            return Version(int(folder.name), folder, dict(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read ({error}); delete its folder, unless it is served") from error


def _same_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links: the same content
        shutil.copy2(source, target)
