"""`ranker embed`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankdistill.export.commands.command_options import Folder, TextFields, TextFile, VariantName
from rankdistill.export.commands.output import printing_at_best


def embed(
    bundle: Folder,
    source: TextFile,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Vectors: .npy, .parquet, .arrow.", show_default=False)],
    text_field: TextFields = None,
    id_field: Annotated[
        str | None, typer.Option("--id-field", help="Column of the id; without it, the row's number from 0.")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", min=1, help="The first of a vector that are kept; without it, all.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, int8 or binary.")] = "float32",
    variant: VariantName = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Texts embedded at once; without it, every core.")
    ] = None,
    part: Annotated[int, typer.Option("--part", min=1, help="Texts in memory, and lost at most by a kill.")] = 4096,
) -> None:
    """Turn a file of texts into vectors; a run that was killed goes on when it is begun again."""
    from rich.console import Console

    from rankdistill.export.batch.embed_file import Job, embed_file
    from rankdistill.export.batch.embed_progress import EmbedProgress
    from rankdistill.export.batch.text_file import count_rows
    from rankdistill.export.runtime.embedder import Embedder

    job = Job(source, target, tuple(text_field or ["text"]), id_field, dimensions, dtype, part)
    total = count_rows(source)
    with (
        Embedder.load(bundle, variant, threads) as embedder,
        EmbedProgress(Console(stderr=True), total) as progress,
    ):
        rows, made = embed_file(embedder, job, progress.update)
    again = f", {made} of them by an earlier run" if made else ""
    with printing_at_best("the vectors are written"):
        typer.echo(f"{target}: {rows} vectors of {dimensions or embedder.width} in {dtype}{again}")
