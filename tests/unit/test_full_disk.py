"""A disk that is full is told as one, with its path, whatever a writer's library raises."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rankdistill.export import full_disk
from rankdistill.export.commands.main import app
from rankdistill.export.errors import UserError
from rankdistill.export.files import folder_beside, write_atomic
from rankdistill.export.full_disk import paths_among, write_problem


def raised(cause: BaseException, error: BaseException) -> BaseException:
    try:
        raise error from cause
    except type(error) as found:
        return found


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # safetensors
        OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),  # Arrow
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
        raised(OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64 vs 12")),
    ],
)
def test_a_full_disk_is_told_by_its_path(tmp_path, error):
    told = write_problem(error, [tmp_path])
    assert told.startswith("no space left on /")
    assert "\n" not in told


def test_the_path_that_an_error_names_is_told(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a file"))
    assert write_problem(error, []).startswith(f"no space left on {tmp_path / 'a file'};")


def test_a_read_only_folder_is_told(tmp_path):
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "x"))
    assert write_problem(error, [tmp_path]).startswith(f"{tmp_path / 'x'}: Permission denied;")


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("shapes differ"), UserError("data.path=x: no folder")])
def test_other_errors_are_none_of_a_disk(tmp_path, error):
    assert write_problem(error, [tmp_path]) is None


TORCH = "[enforce fail at inline_container.cc:672] . unexpected pos 149120 vs 149012"


@pytest.mark.parametrize("message", [TORCH, "16384 requested and 4000 written"])
def test_writers_that_only_say_that_something_is_missing(tmp_path, monkeypatch, message):
    assert "cut off, as on a full disk" in write_problem(RuntimeError(message), [tmp_path])
    monkeypatch.setattr(full_disk, "_free", lambda folder: 0 if folder == tmp_path else 1 << 40)
    told = write_problem(RuntimeError(message), [tmp_path / "not" / "there" / "yet"])
    assert told.startswith(f"no space left on {tmp_path};")
    assert message in told


def test_a_limit_on_the_size_of_files(tmp_path):
    path, (_, hard) = tmp_path / "x", resource.getrlimit(resource.RLIMIT_FSIZE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            write_atomic(path, bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "larger than is allowed" in write_problem(error.value, [tmp_path])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small(tmp_path):
    """A disk of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def save_numpy(folder: Path) -> None:
    np.save(folder / "x.npy", np.zeros(1 << 20))


def save_safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1 << 20)}, folder / "x.safetensors")


def save_arrow(folder: Path) -> None:
    import pyarrow as pa

    with pa.OSFile(str(folder / "x.arrow"), "wb") as sink:
        sink.write(bytes(1 << 21))


def save_atomic(folder: Path) -> None:
    write_atomic(folder / "x", bytes(1 << 21))


def save_torch(folder: Path) -> None:
    import torch

    torch.save(torch.zeros(1 << 19), folder / "x.pt")


def save_states(folder: Path) -> None:
    from rankdistill.export.runtime import item_states

    path = folder / "x"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.int8, shape=(1 << 21,))
    item_states._take_room(path)


@pytest.mark.parametrize("save", [save_numpy, save_safetensors, save_arrow, save_atomic, save_torch, save_states])
def test_every_writer_on_a_disk_that_gets_full(small, save):
    with pytest.raises(Exception) as error:  # noqa: PT011 - each library has its own
        save(small)
    assert write_problem(error.value, [small]).startswith(f"no space left on {small}")


def test_a_command_tells_it_in_one_line(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("rankdistill.export.bundle.writer.write_bundle", full)
    done = CliRunner().invoke(app, ["bundle", str(tmp_path), "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert done.output.startswith("ranker: no space left on /")
    assert len(done.output.splitlines()) == 1


def test_paths_of_a_command_line():
    words = ["RUN", "events='/a b/c'", "--output=/x", "-o", "published=/y"]
    assert paths_among(words) == [Path("RUN"), Path("/a b/c"), Path("/x"), Path("/y")]


def test_names_as_long_as_a_file_system_takes(tmp_path):
    name = "é" * 127  # 254 bytes
    write_atomic(tmp_path / name, "x")
    (tmp_path / name).unlink()
    with folder_beside(tmp_path / name) as work:
        assert work.is_dir()


def test_a_name_that_is_no_utf8_is_written_as_json_escapes_it(tmp_path):
    import json

    path = tmp_path / "x.json"
    write_atomic(path, json.dumps({"run": os.fsdecode(b"/a/\xff")}, ensure_ascii=False))
    assert os.fsencode(json.loads(path.read_text(encoding="utf-8"))["run"]) == b"/a/\xff"
