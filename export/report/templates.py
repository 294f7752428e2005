"""Pages: templates that lie beside the code which fills them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rankdistill.export.report.plain_text import visible


def render(package: str, template: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """Fill an HTML template of a package; every value is escaped, and one that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def finish(value: Any) -> Any:
        return visible(value, lines=True) if type(value) is str else value

    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        finalize=finish,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(**values)
