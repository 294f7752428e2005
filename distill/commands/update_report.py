"""What `distill-update` prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from rankdistill.export.commands.output import printing, printing_at_best
from rankdistill.online.origin import Origin
from rankdistill.online.update import Outcome
from rankdistill.online.versions import Published, Version


def print_origin(origin: Origin) -> None:
    """Tell where old pairs come from."""
    if origin.run is None:
        _say("no run beside the bundle: replay of earlier events only, and no old test set to tell forgetting by")


def print_outcome(outcome: Outcome) -> None:
    """Tell what came of an update: its checks, its steps' seconds, and what is served."""
    for check in outcome.checks:
        _say(str(check))
    if outcome.seconds:
        steps = ", ".join(f"{step} {seconds:g}" for step, seconds in outcome.seconds.items())
        _say(f"{sum(outcome.seconds.values()):.1f} s: {steps}")
    if outcome.detail:
        _say(outcome.detail)
    print_version(outcome.version)


def print_version(version: Version) -> None:
    """Tell which version is served."""
    _say(f"served: version {version.number} ({version.record['kind']}), {version.bundle}")


def print_versions(published: Published) -> None:
    """List the versions."""
    current = published.current()
    table = Table("version", "published (UTC)", "how", "of", "events", "checks")
    for version in published.all():
        record = version.record
        events = record.get("events") or {}
        checks = [name for name, check in _checks(record) if not check["ok"]]
        table.add_row(
            f"{version.number}{' served' if current is not None and version.number == current.number else ''}",
            record["published"][:19],
            record["kind"],
            str(record.get("parent", record.get("origin", ""))),
            str(events.get("used", "")),
            ", ".join(checks) or "ok",
        )
    with printing():
        Console(width=None if sys.stdout.isatty() else 120).print(table)


def print_pruned(numbers: Sequence[int]) -> None:
    """Tell which versions are gone."""
    _say(f"deleted: {', '.join(map(str, numbers)) or 'none'}")


def _checks(record: dict) -> list[tuple[str, dict]]:  # type: ignore[type-arg]
    checks = record.get("checks", {})
    return list(checks.items()) if isinstance(checks, dict) else [(each["name"], each) for each in checks]


def _say(text: str) -> None:
    with printing_at_best("distill-update --versions tells what is served"):
        Console(soft_wrap=True, highlight=False, markup=False).print(text)
