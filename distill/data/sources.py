"""Which adapter reads a data set, with which options, from which files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rankdistill.data.mismatch import Mismatch
from rankdistill.data.text_files import expanded
from rankdistill.errors import DataError
from rankdistill.options import BeirData, Data, EventsData, HubData, MovieLensData, SlateData
from rankdistill.store.stages import hash_files


@dataclass(frozen=True)
class Source:
    """A data set before it is read.

    Attributes:
        options: what shapes its records, for the stage's key.
        files: content hashes of its files, for the stage's key.
        libraries: distributions that shape its records.
        write: writes the records into a folder.
    """

    options: Mapping[str, Any]
    files: Mapping[str, str]
    libraries: tuple[str, ...]
    write: Callable[[Path], None]


def locate(data: Data) -> Source:
    """Find a data set and hash its files, fetching them first where they come from the package index.

    Raises:
        DataError: if it cannot be had.
    """
    if isinstance(data, SlateData):
        return _events(data)
    if isinstance(data, BeirData):
        return _beir(data)
    assert isinstance(data, HubData)
    return _hub(data)


def templates(data: Data, fields: str) -> dict[str, str]:
    """Return how a query's and an item's text are put together, for those who have to do the same in production.

    Args:
        data: where the texts come from.
        fields: of an item that are read: "all", or the first one, its "title".
    """
    if isinstance(data, SlateData):
        title, others = ("title (year)", "genres") if isinstance(data, MovieLensData) else ("title", "text")
        what = title if fields == "title" else f"{title} {others}"
        query = f"profile. liked: title; title (the {data.liked_titles} liked last, newest first)"
        return {"query": query, "item": what}
    if isinstance(data, BeirData):
        return {"query": "text", "item": "title" if fields == "title" else "title text"}
    assert isinstance(data, HubData)
    columns = dict(data.columns)
    return {"query": columns["query"], "item": columns.get("items") or columns["positive"]}


def _options(data: Data) -> dict[str, Any]:
    return {name: value for name, value in asdict(data).items() if name not in ("path", "licence")}


def _events(data: SlateData) -> Source:
    from rankdistill.data import events, movielens

    slate = events.Slate(
        history=data.history,
        liked_titles=data.liked_titles,
        max_positives=data.max_positives,
        max_disliked=data.max_disliked,
        candidates=data.candidates,
        dev_users=data.dev_users,
        test_users=data.test_users,
        seed=data.seed,
    )
    if isinstance(data, MovieLensData):
        folder, names = movielens.locate(data.path)
        files = hash_files([folder / name for name in names])
        return Source(
            _options(data),
            files,
            ("numpy",),
            lambda out: movielens.prepare(folder, names, out, slate, data.max_left_out),
        )
    assert isinstance(data, EventsData)
    folder = expanded(data.path, "data.path")
    files = hash_files([folder / name for name in events.FILES])
    name, most = data.name or folder.resolve().name, data.max_left_out

    def write(out: Path) -> None:
        log = events.read(folder, Mismatch(name, most))
        events.prepare(log, out, slate, name=name, notes={"source": name}, max_left_out=most)

    return Source(_options(data) | {"name": name}, files, ("numpy",), write)


def _beir(data: BeirData) -> Source:
    from rankdistill.data import beir

    folder = expanded(data.path, "data.path")
    files = hash_files([folder / "corpus.jsonl", folder / "queries.jsonl"])
    files |= {f"qrels/{name}": value for name, value in hash_files(list((folder / "qrels").glob("*.tsv"))).items()}
    name = data.name or folder.resolve().name

    def write(out: Path) -> None:
        beir.prepare(
            folder,
            out,
            name=name,
            relevant=data.relevant,
            candidates=data.candidates,
            dev_fraction=data.dev_fraction,
            seed=data.seed,
            max_left_out=data.max_left_out,
        )

    options = _options(data) | {"name": name, "filled": "relevant alone"}  # the queries that BM25 fills
    return Source(options, files, ("numpy", "bm25s"), write)


def _hub(data: HubData) -> Source:
    from rankdistill.data import hub

    local = expanded(data.path, "data.path")
    paths = sorted(path for path in local.rglob("*") if path.is_file()) if local.is_dir() else []
    files = {str(path.relative_to(local)): digest for path in paths for digest in hash_files([path]).values()}
    if paths and data.revision is not None:
        raise DataError(f"data.revision={data.revision}: allowed is null with a local folder, {local}")
    name = data.name or (local.resolve().name if paths else local.name)
    revision = None if paths else hub.commit_of(data.path, data.revision)
    options = _options(data) | {"name": name, "revision": revision} | ({} if paths else {"path": data.path})

    def write(out: Path) -> None:
        hub.prepare(
            str(local) if paths else data.path,
            out,
            subset=data.subset,
            columns=data.columns,
            splits=data.splits,
            name=name,
            relevant=data.relevant,
            dev_fraction=data.dev_fraction,
            max_queries=data.max_queries,
            seed=data.seed,
            revision=revision,
            max_left_out=data.max_left_out,
        )

    return Source(options, files, ("numpy", "datasets"), write)
