"""The bundle's Dockerfile: an image that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCKERFILE = "Dockerfile"
TEMPLATE = "Dockerfile.j2"
PINNED = ("rankdistill", "onnxruntime", "tokenizers", "numpy")  # whose versions scores depend on


def write_dockerfile(manifest: Mapping[str, Any], path: Path) -> None:
    """Write it; the same manifest gives the same bytes.

    Args:
        manifest: of the bundle.
        path: file to write.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    versions = manifest["versions"]
    pinned = {name: f"=={versions[name].split('+')[0]}" if name in versions else "" for name in PINNED}
    environment = Environment(
        loader=PackageLoader("rankdistill.export.bundle", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    text = environment.get_template(TEMPLATE).render(pinned=pinned)
    path.write_text(text, encoding="utf-8", newline="\n")
