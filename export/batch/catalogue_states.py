"""The states of a catalogue's items into a folder: each text once, whole or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from rankdistill.export.errors import UserError
from rankdistill.export.files import folder_beside, publish_folder
from rankdistill.export.runtime.item_states import ABOUT, ItemStates, keys_of, write
from rankdistill.export.runtime.manifest import SPLIT, TOKENIZER, Manifest
from rankdistill.export.runtime.ranker import halves_of
from rankdistill.export.runtime.split_scorer import ITEM_SPECIAL, TextStates
from rankdistill.export.runtime.text.shortener import Shortener
from rankdistill.export.runtime.text.tokens import SPECIAL, Int32, PairEncoder

TEXTS = 4096  # tokenised at a time
AHEAD = 8  # items a thread that are computed before they are written


def write_states(
    bundle: Path,
    items: Iterator[str],
    out: Path,
    *,
    variant: str | None,
    threads: int,
    progress: Callable[[int], None],
) -> tuple[int, int]:
    """Compute the states of items with a bundle's split student.

    Args:
        bundle: its folder.
        items: texts, whole ones where the bundle has a shortener.
        out: folder to write; states that are there are replaced in one step.
        variant: name of the graph whose half computes them; None for the one for this processor.
        threads: that compute at once.
        progress: is told of every item that is done.

    Returns:
        How many different items there are, and how many of them are too long to be stored: beside any query they would
        be cut, so each is computed when it is asked for.

    Raises:
        BundleError, ModelError: if it is no bundle, or cannot be loaded.
        UserError: if its student is not split, or `out` is something else than such a folder or cannot be written.
    """
    manifest = Manifest.read(bundle)
    chosen = manifest.variant(variant)
    lower, _ = halves_of(manifest, chosen)
    if out.exists() and not (out / ABOUT).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there and holds no items' states; name another folder")
    manifest.checked(TOKENIZER)
    encoder, shortener = PairEncoder.load(manifest.folder, manifest.max_length), Shortener.of(manifest)
    texts = TextStates(manifest.checked(lower), encoder, int(manifest.content[SPLIT]["parts"]))
    found: dict[bytes, Int32] = {}
    while batch := [*islice(items, TEXTS)]:
        read = batch if shortener is None else [shortener.shorten(text) for text in batch]
        found |= {ids.tobytes(): ids for ids in encoder.ids(read)}
    room = manifest.max_length - SPECIAL
    fitting = [ids for ids in found.values() if len(ids) < room]
    order = np.lexsort(keys_of(fitting).T[::-1])
    chosen_items = [fitting[int(row)] for row in order]
    about = {"lower": manifest.file(lower)[0], "variant": chosen.name, "model": manifest.content["key"]}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with folder_beside(out) as work:
            states = _computed(texts, chosen_items, threads, progress)
            write(chosen_items, states, about, texts.shape, ITEM_SPECIAL, work)
            publish_folder(work, out, replace=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    return len(found), len(found) - len(fitting)


def _computed(
    texts: TextStates, items: Sequence[Int32], threads: int, progress: Callable[[int], None]
) -> Iterator[ItemStates]:
    """Yield the states of items in their order, computed by several threads a little ahead."""
    waiting = iter(items)
    running: deque[Future[ItemStates]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="states") as pool:
        running.extend(pool.submit(texts.item, ids) for ids in islice(waiting, threads * AHEAD))
        while running:
            states = running.popleft().result()
            running.extend(pool.submit(texts.item, ids) for ids in islice(waiting, 1))
            progress(1)
            yield states
