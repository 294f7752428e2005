"""Several processes that write one bundle, and writers that are killed: one whole bundle, the old or the new."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rankdistill.export import files
from rankdistill.export.bundle.verification import verify
from rankdistill.export.bundle.writer import write_bundle
from rankdistill.export.errors import BundleError, UserError
from tests.faults import bundles

pytestmark = pytest.mark.faults

SECONDS, KILLS = 8, 10
WRITE = """
import sys
from pathlib import Path
from rankdistill.export.bundle.writer import write_bundle
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    write_bundle(Path(sys.argv[1]), Path(sys.argv[2]))
    print("written", flush=True)
"""


@pytest.fixture
def runs(bundle, tmp_path):
    """Two finished runs that differ."""
    one = bundle.parent
    other = one.with_name("another")
    if not other.exists():
        shutil.copytree(one, other)
        bundles.edit(other / "tradeoff.json", lambda content: content.update(experiment="another"))
    return one, other


def writer(run, out, times):
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, run, out, str(times)], cwd=bundles.ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def name_of(out):
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))["name"]


@pytest.mark.parametrize("writers", [2, 4])
def test_writers_of_one_bundle_leave_a_whole_one_at_every_moment(runs, tmp_path, writers):
    out = tmp_path / "bundle"
    write_bundle(runs[0], out)
    busy = [writer(runs[number % 2], out, 1000) for number in range(writers)]
    for process in busy:
        assert process.stdout.readline() == "ready\n"
    seen, whole, replaced, end = set(), 0, 0, time.monotonic() + SECONDS
    while time.monotonic() < end or (whole == 0 and time.monotonic() < end + 60):
        assert out.is_dir()
        try:
            assert [finding for finding in verify(out) if not finding.ok] == []
            whole += 1
            seen.add(name_of(out))
        except (BundleError, OSError):
            replaced += 1
    for process in busy:
        line = process.stdout.readline()  # on a busy machine the first bundle may still be at it
        assert line == "written\n", process.communicate()[1]
        assert process.poll() is None, process.communicate()[1]
        process.kill()
        process.communicate()
    assert bundles.wrong(out) == []
    assert whole + replaced > 5
    write_bundle(runs[0], out)
    assert names_in(tmp_path) == ["bundle"]


def test_a_writer_killed_at_any_instant_leaves_a_whole_bundle(runs, tmp_path):
    out, rng = tmp_path / "bundle", random.Random(0)
    write_bundle(runs[0], out)
    for number in range(KILLS):
        process = writer(runs[number % 2], out, 1000)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.1, 0.9))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert bundles.wrong(out) == []
    write_bundle(runs[1], out)
    assert bundles.wrong(out) == []
    assert name_of(out) == "another"
    assert names_in(tmp_path) == ["bundle"]


DYING = """
import os, sys
from pathlib import Path
from rankdistill.export import files
from rankdistill.export.bundle import writer
step, when = sys.argv[3:]
owner = {"_write": writer, "rmtree": files.shutil}.get(step, files)
calm = getattr(owner, step)
def die(*arguments, **options):
    if when == "after":
        calm(*arguments, **options)
    if when == "amid":
        next(Path(arguments[0]).glob("*.json")).unlink()
    os.kill(os.getpid(), 9)
setattr(owner, step, die)
writer.write_bundle(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("step", "when", "left"),
    [
        ("_write", "before", "small"),
        ("_write", "after", "small"),
        ("_fsync", "after", "small"),
        ("_exchange", "before", "small"),
        ("_exchange", "after", "another"),
        ("rmtree", "amid", "another"),
    ],
)
def test_a_writer_killed_at_a_step_leaves_a_whole_bundle(runs, tmp_path, step, when, left):
    out = tmp_path / "bundle"
    write_bundle(runs[0], out)
    done = subprocess.run([sys.executable, "-c", DYING, runs[1], out, step, when], cwd=bundles.ROOT)
    assert done.returncode == -signal.SIGKILL
    assert bundles.wrong(out) == []
    assert name_of(out) == left
    assert len(names_in(tmp_path)) == 2
    write_bundle(runs[0], out)
    assert names_in(tmp_path) == ["bundle"]


def test_an_abandoned_folder_is_locked_until_it_is_gone(tmp_path, monkeypatch):
    """Else who has just made it could lock it between, and find it deleted while writing."""
    final = tmp_path / "bundle"
    left = tmp_path / ".bundle.abcdefgh.part"
    left.mkdir()
    remove, locked = files.shutil.rmtree, []

    def watched(path, **options):
        if path == left:
            with pytest.raises(BlockingIOError):
                files._lock(path)
            locked.append(path)
        remove(path, **options)

    monkeypatch.setattr(files.shutil, "rmtree", watched)
    with files.folder_beside(final):
        assert locked == [left]
        assert not left.exists()


def test_a_folder_taken_for_abandoned_as_soon_as_it_is_there_is_made_again(tmp_path, monkeypatch):
    make, made = files.tempfile.mkdtemp, []

    def robbed(**options):
        made.append(make(**options))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(files.tempfile, "mkdtemp", robbed)
    with files.folder_beside(tmp_path / "bundle") as work:
        assert work.is_dir()
        assert len(made) == 2


def test_a_bundle_replaced_while_its_names_are_read_is_still_one(runs, tmp_path, monkeypatch):
    """The old one, whose names are being read, is deleted meanwhile by who has replaced it."""
    out = tmp_path / "bundle"
    write_bundle(runs[0], out)
    names, reads = Path.iterdir, []

    def replaced(path):
        if path != out or reads:
            return names(path)
        reads.append(path)
        write_bundle(runs[1], out)
        return iter([out / "graphs"])

    monkeypatch.setattr(Path, "iterdir", replaced)
    write_bundle(runs[0], out)
    assert reads
    assert name_of(out) == "small"


def test_what_a_killed_writer_left_goes_and_what_a_living_one_makes_stays(tmp_path):
    final = tmp_path / "bundle"
    mine = [".bundle.backup", ".bundle.part", ".bundle.my_own.part", ".bundle2.killed12.part", "bundle.part"]
    for name in [*mine, ".bundle.killed12.part", ".bundle.killed12.part.old"]:
        (tmp_path / name).mkdir()
    with files.folder_beside(final) as living:
        with files.folder_beside(final) as other:
            assert living.is_dir()
            assert living != other
        assert {path.name for path in tmp_path.iterdir()} == {*mine, living.name}
    assert {path.name for path in tmp_path.iterdir()} == set(mine)


def test_where_names_cannot_be_exchanged_the_new_folder_still_takes_the_place(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    final = tmp_path / "bundle"
    for text in ("one", "two"):
        with files.folder_beside(final) as work:
            (work / "file").write_text(text)
            files.publish_folder(work, final, replace=True)
        assert (final / "file").read_text() == text
    assert names_in(tmp_path) == ["bundle"]


def test_the_old_folder_is_put_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    final = tmp_path / "bundle"
    final.mkdir()
    (final / "file").write_text("old")
    work = tmp_path / "work"
    work.mkdir()
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda path, to: rename(path, to if path != work else tmp_path / "no" / "where")
    )
    monkeypatch.setattr(files, "errno", SimpleNamespace(ENOENT=0, EEXIST=0, ENOTEMPTY=0))
    with pytest.raises(FileNotFoundError):
        files.publish_folder(work, final, replace=True)
    assert (final / "file").read_text() == "old"


def refused(run, out):
    before = sorted(out.parent.rglob("*"))
    done = bundles.ranker("bundle", run, "-o", out)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ranker: ")
    assert done.stderr.count("\n") == 1
    assert sorted(out.parent.rglob("*")) == before
    return done.stderr


def test_a_folder_that_is_no_bundle_is_never_replaced(runs, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "a web page has one too"}')
    (tmp_path / "file").write_text("text")
    for out in (site, tmp_path / "file", tmp_path):
        assert "no bundle; name another folder" in refused(runs[0], out)
    with pytest.raises(UserError, match="no bundle"):
        write_bundle(runs[0], runs[0])


def test_a_link_to_a_bundle_keeps_leading_to_it(runs, tmp_path):
    out, link = tmp_path / "v1", tmp_path / "current"
    write_bundle(runs[0], out)
    link.symlink_to("v1")
    write_bundle(runs[1], link)
    assert link.is_symlink()
    assert name_of(out) == "another"
    assert names_in(tmp_path) == ["current", "v1"]


def test_an_unfinished_or_torn_run_gives_no_bundle(runs, tmp_path):
    run = tmp_path / "runs" / "small" / "one"
    shutil.copytree(runs[0], run)
    assert "stage student is not there any more" in refused(run, tmp_path / "out")
    bundles.edit(run / "run.json", lambda content: content.update(status="running"))
    assert "not finished" in refused(run, tmp_path / "out")
    for torn in ("{", "[]", "{}"):
        (run / "run.json").write_text(torn)
        assert "run.json" in refused(run, tmp_path / "out")
    assert "no run" in refused(tmp_path, tmp_path / "out")


def test_where_nothing_can_be_written_a_line_says_so(runs, tmp_path):
    (tmp_path / "file").write_text("text")
    assert "cannot be written" in refused(runs[0], tmp_path / "file" / "bundle")
    assert "cannot be written" in refused(runs[0], tmp_path / ("x" * 256))
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "cannot be written" in refused(runs[0], tmp_path / "closed" / "bundle")


def test_an_unusable_key_leaves_nothing(runs, tmp_path):
    (tmp_path / "key.pem").write_text("no key")
    done = bundles.ranker("bundle", runs[0], "-o", tmp_path / "out", "--sign", tmp_path / "key.pem")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert names_in(tmp_path) == ["key.pem"]
