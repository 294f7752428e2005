"""`ranker states`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankdistill.export.commands.command_options import Folder, TextFields, TextFile, Threads, VariantName
from rankdistill.export.commands.output import printing_at_best


def states(
    bundle: Folder,
    source: TextFile,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.", show_default=False)],
    text_field: TextFields = None,
    variant: VariantName = None,
    threads: Threads = None,
) -> None:
    """Compute what a split student knows of a catalogue's items before any query comes."""
    from rich.console import Console

    from rankdistill.export.batch.catalogue_states import write_states
    from rankdistill.export.batch.embed_progress import EmbedProgress
    from rankdistill.export.batch.text_file import count_rows, read_rows
    from rankdistill.export.runtime.threads import available_cores

    texts = (text for _, text in read_rows(source, tuple(text_field or ["text"]), None))
    with EmbedProgress(Console(stderr=True), count_rows(source), "states") as progress:
        found, long = write_states(
            bundle, texts, target, variant=variant, threads=threads or available_cores(), progress=progress.update
        )
    size = sum(path.stat().st_size for path in target.iterdir()) / 1e6
    with printing_at_best("the states are written"):
        typer.echo(f"{target}: states of {found - long} different items, {size:.1f} MB")
        if long:
            typer.echo(
                f"{long} items are too long to stand beside a query uncut; they are computed when they are asked for"
            )
