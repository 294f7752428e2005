"""A finished run stays finished and ends with code 0, whatever its terminal is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run_folders import write_run

ROOT = Path(__file__).parents[2]
RUN = """
import json, sys
from pathlib import Path
from rankdistill import __main__
from rankdistill.export.files import write_atomic
from rankdistill.pipeline import experiment
from rankdistill.tracking import recorder

def run(config, folder, overrides):
    write_atomic(folder / "run.json", json.dumps({"status": "finished", "stages": {}}))
    return json.loads(Path(TRADEOFF).read_text())

experiment.run = run
recorder.after_run = lambda folder, *_: print("tracked", json.loads((folder / "run.json").read_text())["status"])
__main__._require = lambda *_: None
"""


@pytest.fixture
def command(tmp_path):
    """Return a shell's words for a `distill` whose work is done at once."""
    told = write_run(tmp_path / "told", [0.5, 0.25])
    script = tmp_path / "run.py"
    script.write_text(RUN.replace("TRADEOFF", repr(str(told / "tradeoff.json"))) + "__main__.main()\n")
    folder = tmp_path / "runs" / "now"
    return f"{sys.executable} {script} experiment=tiny runs={tmp_path}/runs hydra.run.dir={folder}", folder


def shell(line: str, **environment: str):
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": "/dev/null"} | environment
    return subprocess.run(["sh", "-c", line], capture_output=True, check=False, env=environment)


def test_encodings_that_lack_characters(command):
    line, folder = command
    commands = [f"PYTHONIOENCODING={name} {line}" for name in ("ascii", "latin-1:strict", "cp437")]
    for each in commands:
        done = shell(each)
        assert (done.returncode, json.loads((folder / "run.json").read_text())["status"]) == (0, "finished"), (
            done.stderr
        )
        assert b"student" in done.stdout
        assert b"Error" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("> /dev/full", b"the output cannot be written: No space left on device; "),
        ("2> /dev/full", b""),
        (">&-", b""),
        (">&- 2>&- <&-", b""),
    ],
)
def test_streams_that_cannot_be_written(command, end, told):
    line, folder = command
    done = shell(f"{line} {end}")
    assert (done.returncode, json.loads((folder / "run.json").read_text())["status"]) == (0, "finished"), done.stderr
    assert told in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"rankdistill" not in (folder / "run.json").read_bytes()


def test_a_reader_that_has_gone(command):
    line, folder = command
    done = shell(f"({line}; echo $? >&2) | true")
    assert done.stderr.split()[-1] == b"0", done.stderr
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_closed_streams_lead_nowhere_so_that_no_file_gets_their_descriptors(tmp_path):
    use = "open_streams(); f = open('x', 'w'); print('lost'); f.write('kept')"
    code = f"from rankdistill.export.commands.output import open_streams; {use}"
    done = shell(f'cd {tmp_path} && {sys.executable} -c "{code}" >&- 2>&- <&-', PYTHONPATH=str(ROOT))
    assert done.returncode == 0
    assert (tmp_path / "x").read_text() == "kept"
