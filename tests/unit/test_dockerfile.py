"""The bundle's Dockerfile: what scores depend on is pinned, nothing runs as root, and its health is asked for."""

from __future__ import annotations

import json
import re
import shlex

from typer.testing import CliRunner

from rankdistill.export.bundle.dockerfile import PINNED, write_dockerfile
from rankdistill.export.commands.main import app

VERSIONS = {
    "rankdistill": "0.1.0",
    "onnxruntime": "1.32.0",
    "tokenizers": "0.22.2",
    "numpy": "2.4.6",
    "torch": "2.13.0+cpu",
}


def instructions(tmp_path, versions: dict[str, str]) -> list[tuple[str, str]]:
    path = tmp_path / "Dockerfile"
    write_dockerfile({"versions": versions}, path)
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def test_what_scores_depend_on_is_pinned_to_the_runs_versions(tmp_path):
    found = dict(instructions(tmp_path, VERSIONS))
    assert found["ARG"] == 'PACKAGE="rankdistill[serve]==0.1.0"'
    installed = next(value for name, value in instructions(tmp_path, VERSIONS) if value.startswith("pip install"))
    assert shlex.split(installed)[3:] == [f"{name}=={VERSIONS[name]}" for name in PINNED[1:]]
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", found["FROM"])


def test_a_run_that_did_not_note_a_version_pins_none(tmp_path):
    assert dict(instructions(tmp_path, {}))["ARG"] == 'PACKAGE="rankdistill[serve]"'


def test_it_runs_as_a_user_whose_health_is_asked_for_and_serves_by_a_command_that_there_is(tmp_path):
    found = instructions(tmp_path, VERSIONS)
    names = [name for name, _ in found]
    assert int(dict(found)["USER"]) > 0
    assert names.index("USER") > names.index("COPY")
    health = dict(found)["HEALTHCHECK"]
    assert "/ready" in health
    compile(json.loads(health[health.index("[") :])[2], "health", "exec")
    command = json.loads(dict(found)["ENTRYPOINT"])
    assert command[:2] == ["ranker", "serve"]
    told = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    assert all(option in told for option in command if option.startswith("--"))


def test_the_same_manifest_gives_the_same_bytes(tmp_path):
    write_dockerfile({"versions": VERSIONS}, tmp_path / "one")
    write_dockerfile({"versions": VERSIONS}, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
