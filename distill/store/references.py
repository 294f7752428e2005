"""Which runs refer to a store's stages: those in the folder of runs, behind its links, and those that registered."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from rankdistill.export.errors import UserError
from rankdistill.export.files import write_atomic

RUN, CONFIG, HYDRA = "run.json", "config.yaml", ".hydra/hydra.yaml"
STAGES = "stages"
REGISTER = ".runs"  # in the store: a file for each run, which may lie anywhere
EARLIER = "earlier"  # of run.json: stages that the folder's run before stood on
NAMING = re.compile(r"""\b(?:path|model|init|first|safety|rivals)["']?: *(?!null\b|["']?package:)""")
CWD_LINE = re.compile(r"^ +cwd: (.+)$", re.MULTILINE)


def register(store: Path, run: Path) -> None:
    """Note in a store that a run uses it, wherever the run's folder is: what it refers to is not pruned.

    Args:
        store: folder of the stages.
        run: folder of the run, which is there.
    """
    real = run.resolve()
    path = store / REGISTER / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:16]}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps({"run": str(real), "mount": str(_mount(real))}) + "\n")


def referred(runs: Path) -> dict[str, int]:
    """Return how many runs refer to each stage of a folder of runs, by the stage's key.

    A run refers to the stages that it stands on, to those that its options name, and to those of runs that they name.

    Raises:
        UserError: if a run, or a folder that may have runs, cannot be read: its stages would be taken for unused.
    """
    store = (runs / STAGES).resolve()
    found = {folder.resolve() for folder in _in_folder(runs, store)}
    if store.parent != runs.resolve():  # a link: the store may have runs beside it
        found |= {run.resolve() for run in _beside(store)}
    found |= set(_registered(store))
    counts: Counter[str] = Counter()
    for folder in found:
        counts.update(_keys(folder, store, frozenset()))
    return dict(counts)


def _in_folder(runs: Path, store: Path) -> Iterator[Path]:
    """Yield the folders with a run below a folder, links followed, without the store, whose files are many."""
    seen = {_place(store)}
    for where, folders, names in os.walk(runs, onerror=_unreadable, followlinks=True):
        place = _place(Path(where))
        if place is None or place in seen:
            folders.clear()
            continue
        seen.add(place)
        if RUN in names:
            yield Path(where)
            continue
        for name in names:
            path = Path(where, name)
            if path.is_symlink() and not path.exists() and runs.resolve() not in path.resolve().parents:
                raise UserError(
                    f"{path} leads to {path.readlink()}, which is not there and may have runs; mount it, or delete the "
                    "link"
                )


def _beside(store: Path) -> Iterator[Path]:
    """Yield the runs in the folders beside a store, as deep as runs and sweeps lie, not those of a whole disk."""
    for depth in ("*", "*/*", "*/*/*", "*/*/*/*"):
        for path in store.parent.glob(f"{depth}/{RUN}"):
            if store not in path.parents:
                yield path.parent


def _registered(store: Path) -> Iterator[Path]:
    """Yield the folders of registered runs that are there."""
    for path in sorted((store / REGISTER).glob("*.json")):
        told = _read(path, json.loads)
        try:
            run, mount = Path(told["run"]), Path(told["mount"])
        except (TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged; delete it if no run outside of {store.parent} is left") from error
        if (run / RUN).is_file():
            yield run
        elif not os.path.ismount(mount):  # else it was deleted
            raise UserError(f"{run} is on a disk that is not there; mount it, or delete {path} if the run is gone")


def _keys(folder: Path, store: Path, seen: frozenset[Path]) -> set[str]:
    """Return the keys of the stages that a run refers to; none if it is deleted meanwhile."""
    path = folder / RUN
    try:
        record = _read(path, json.loads)
    except FileNotFoundError:
        return set()
    try:
        named = [*record["stages"].values(), *record.get(EARLIER, ())]
        keys = {Path(stage).name for stage in named}
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(_lost(path, error)) from error
    for option in _named(folder):
        keys |= _of_path(option, store, seen | {folder})
    return keys


def _of_path(path: Path, store: Path, seen: frozenset[Path]) -> set[str]:
    """Return the keys of the stages that a path in a run's options leads to."""
    real = path.resolve()
    if store in real.parents:
        return {real.relative_to(store).parts[0]}
    runs = [each for each in (real, real.parent) if (each / RUN).is_file() and each not in seen]
    return {key for run in runs for key in _keys(run, store, seen)}


def _named(folder: Path) -> list[Path]:
    """Return the paths that a run's options name, which are there."""
    try:
        text = _read(folder / CONFIG, str)
    except FileNotFoundError:
        return []
    if not NAMING.search(text):
        return []
    here = Path()
    try:
        if found := CWD_LINE.search(_read(folder / HYDRA, str)):
            here = Path(str(yaml.safe_load(found[1])))
    except (FileNotFoundError, yaml.YAMLError):
        pass
    try:
        texts = [*_texts(yaml.safe_load(text))]
    except yaml.YAMLError as error:
        raise UserError(_lost(folder / CONFIG, error)) from error
    found_ = [here / os.path.expanduser(each) for each in texts if "/" in each]  # noqa: PTH111 - no home is no mistake
    return [path for path in found_ if _is_there(path)]


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, str):
        yield node


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than a path can be: it is none
        return False


def _read(path: Path, parse: Any) -> Any:
    """Return what a file says; each version of it is read once.

    Raises:
        FileNotFoundError: if it is not there.
        UserError: if it cannot be read.
    """
    try:
        stat = path.stat()
        return _parsed(path, stat.st_mtime_ns, stat.st_size, parse)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(str(path)) from error
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(_lost(path, error)) from error


@lru_cache(maxsize=1 << 15)
def _parsed(path: Path, _time: int, _size: int, parse: Any) -> Any:
    return parse(path.read_text(encoding="utf-8"))


def _lost(path: Path, error: Exception) -> str:
    return f"{path} cannot be read ({error}); mend or delete it, else its stages would be lost"


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error


def _place(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from every other one, whatever it is called; None if it is not there."""
    try:
        stat = folder.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _mount(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if os.path.ismount(each))
