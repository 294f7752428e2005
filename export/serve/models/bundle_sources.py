"""Where new bundles come from: a folder that is replaced, or an address that gives an archive."""

from __future__ import annotations

import http.client
import logging
import lzma
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Protocol

from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.manifest import MANIFEST, is_inside

TIMEOUT_S = 30.0
MOST_BYTES = 8 << 30  # of an archive's files together
MOST_FILES = 1000
BLOCK = 1 << 20
logger = logging.getLogger("ranker")


class Source(Protocol):
    """Is asked again and again whether there is another bundle."""

    def look(self) -> Path | None:
        """Return the folder of a bundle that it has not returned before; None if there is none.

        Raises:
            BundleError: if something is there that is no bundle; told once.
        """

    def keep(self, bundles: Iterable[Path]) -> None:
        """Give back what was fetched, but for these bundles, which may still answer."""

    def close(self) -> None:
        """Give back everything."""


class FolderSource:
    """A bundle's folder that is replaced by newer ones, or a link that is set to them.

    A folder that is being written changes between two looks: it is returned when it has stood still for one.

    Args:
        path: of the folder or link.
        known: whether the bundle that is there now is known already.
    """

    def __init__(self, path: Path, *, known: bool = False) -> None:
        self.path = path
        self._last = self._seen = self._identity() if known else None

    def look(self) -> Path | None:
        """See `Source.look`. A folder that is not there now is being replaced: none."""
        before, self._last = self._last, self._identity()
        if self._last is None or self._last != before or self._last == self._seen:
            return None
        self._seen = self._last
        return self.path.resolve()

    def keep(self, bundles: Iterable[Path]) -> None:
        """See `Source.keep`: nothing was fetched."""

    def close(self) -> None:
        """See `Source.close`: nothing was fetched."""

    def _identity(self) -> tuple[object, ...] | None:
        """Return what is otherwise when any file is another, or was written anew; None without a manifest.

        A copy over a file may keep its inode, size and mtime (`cp -p`), but not its ctime.
        """
        try:
            folder = self.path.resolve(strict=True)
            found = [(str(path), path.stat()) for path in sorted(folder.rglob("*"))]
        except OSError:
            return None
        if not (folder / MANIFEST).exists():
            return None
        return (str(folder), *((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found))


class EndpointSource:
    """An address that answers with a bundle as a tar archive, plain or compressed, and with an ETag.

    Args:
        url: http or https.
        folder: keeps what was fetched; made if it is not there.
        known: ETag of the bundle that answers already.
    """

    def __init__(self, url: str, folder: Path, known: str | None = None) -> None:
        self.url, self.folder = url, folder
        self._etag = known
        self._told: str | None = None
        self._count = 0
        folder.mkdir(parents=True, exist_ok=True)

    def look(self) -> Path | None:
        """See `Source.look`. An address that does not answer now, or stops in its midst, is asked again later: none."""
        request = urllib.request.Request(self.url, headers={"If-None-Match": self._etag} if self._etag else {})
        with tempfile.TemporaryFile() as archive:
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                    etag = answer.headers.get("ETag")
                    if etag is None:
                        raise BundleError(f"{self.url} answers without an ETag: nothing tells a new bundle from an old")
                    if etag == self._etag:
                        return None
                    shutil.copyfileobj(answer, archive, BLOCK)
                    whole = answer.length in (0, None)  # of what Content-Length promised, nothing is left
            except (OSError, http.client.HTTPException) as error:  # 304, or nobody there
                self._tell(error)
                return None
            if not whole:
                return None
            self._told = None
            self._etag = etag
            archive.seek(0)
            return self._unpacked(archive)

    def close(self) -> None:
        """See `Source.close`."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tell(self, error: Exception) -> None:
        """Log what is wrong with the address, once until it is something else."""
        told = None if getattr(error, "code", None) == 304 else str(error)
        if told is not None and told != self._told:
            logger.warning("%s: %s; it is asked again", self.url, told)
        self._told = told

    def keep(self, bundles: Iterable[Path]) -> None:
        """See `Source.keep`."""
        used = {folder for path in bundles for folder in (path, *path.parents)}
        for path in self.folder.iterdir():
            if path not in used:
                shutil.rmtree(path, ignore_errors=True)

    def _unpacked(self, archive: IO[bytes]) -> Path:
        self._count += 1
        out = self.folder / f"{self._count}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        try:
            return unpack(archive, out)
        except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, BundleError) as error:
            shutil.rmtree(out, ignore_errors=True)
            raise BundleError(f"{self.url}: {error}") from error


def open_source(where: str, answers: Path) -> Source:
    """Return where new bundles come from.

    Args:
        where: an http(s) address, or a folder or link.
        answers: folder of the bundle that answers now.
    """
    if where.startswith(("http://", "https://")):
        return EndpointSource(where, Path(tempfile.mkdtemp(prefix="ranker-bundles-")))
    return FolderSource(Path(where), known=Path(where).resolve() == answers.resolve())


def unpack(archive: IO[bytes], out: Path) -> Path:
    """Write the files of a bundle's archive; they stand at its top, or in one folder there.

    Returns:
        The folder with the manifest.

    Raises:
        BundleError: for anything but plain files in a bundle's folders, for too much of them, or without a manifest.
        tarfile.TarError: if it is no archive.
    """
    left, count = MOST_BYTES, 0
    with tarfile.open(fileobj=archive, mode="r|*") as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isdir():
                continue
            if not member.isfile() or not is_inside(name):
                raise BundleError(f"{member.name!r:.80} is no plain file of a bundle; refused")
            left, count = left - member.size, count + 1
            if left < 0 or count > MOST_FILES:
                raise BundleError(f"more than {MOST_BYTES} bytes or {MOST_FILES} files; refused")
            content = tar.extractfile(member)
            assert content is not None
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(content, file, BLOCK)
    found = [path.parent for path in (out / MANIFEST, *sorted(out.glob(f"*/{MANIFEST}"))) if path.exists()]
    if not found:
        raise BundleError(f"no {MANIFEST} in it, neither at its top nor in a folder there")
    return found[0]
