"""New bundles are seen once, and nothing but plain files comes out of an archive."""

import io
import os
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rankdistill.export.errors import BundleError
from rankdistill.export.serve.models.bundle_sources import EndpointSource, FolderSource, unpack

FILES = {"manifest.json": b"{}", "onnx/model.onnx": b"graph", "tokenizer.json": b"t"}


def write(folder: Path, text="{}"):
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(text)
    return folder


def test_a_folder_is_seen_once_and_again_when_it_is_another(tmp_path):
    one, two, link = write(tmp_path / "one"), write(tmp_path / "two"), tmp_path / "current"
    link.symlink_to(one)
    source = FolderSource(link)
    assert source.look() is None  # it may be in the midst of being written
    assert source.look() == one
    assert source.look() is None
    new = tmp_path / "new"
    new.symlink_to(two)
    new.replace(link)
    assert source.look() is None
    assert source.look() == two
    link.unlink()
    assert source.look() is None  # being replaced
    link.symlink_to(two)
    assert [source.look() for _ in range(3)] == [None] * 3
    write(two, '{"key": "another"}')
    assert [source.look() for _ in range(3)] == [None, two, None]


def test_a_file_that_is_copied_over_with_its_old_time_and_size_is_another(tmp_path):
    source = FolderSource(write(tmp_path / "one"), known=True)
    file = tmp_path / "one/manifest.json"
    before = file.stat()
    with file.open("r+") as open_file:
        open_file.write("[]")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert [source.look() for _ in range(3)] == [None, tmp_path / "one", None]


def test_a_folder_that_is_being_copied_is_waited_for(tmp_path):
    source = FolderSource(tmp_path / "new")
    write(tmp_path / "new")
    assert source.look() is None
    for number in range(3):
        (tmp_path / "new" / f"graph{number}").write_bytes(b"x" * number)
        assert source.look() is None
    assert source.look() == tmp_path / "new"


def test_what_is_known_is_not_new(tmp_path):
    source = FolderSource(write(tmp_path / "one"), known=True)
    assert source.look() is None


def archive(files, mode="w:gz", top=""):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("top", ["", "./", "bundle/"])
def test_an_archive_is_unpacked(tmp_path, mode, top):
    for files in (FILES, dict(reversed(FILES.items()))):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        out.mkdir()
        assert tree(unpack(io.BytesIO(archive(files, mode, top)), out)) == FILES


def test_an_archive_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        unpack(io.BytesIO(archive({"a/b/manifest.json": b"{}"})), tmp_path)


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../b", "a\\b"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, name):
    inner = tmp_path / "beside" / "out"
    inner.mkdir(parents=True)
    with pytest.raises(BundleError, match="refused"):
        unpack(io.BytesIO(archive({"manifest.json": b"{}", name: b"x"})), inner)
    assert tree(tmp_path) == {"beside/out/manifest.json": b"{}"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(BundleError, match="no plain file"):
        unpack(io.BytesIO(out.getvalue()), tmp_path)


class Server(HTTPServer):
    etag, body, cut = '"1"', archive(FILES), False


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        if server.etag and self.headers.get("If-None-Match") == server.etag:
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body[: len(server.body) // 2] if server.cut else server.body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def source_of(server, folder):
    return EndpointSource(f"http://127.0.0.1:{server.server_port}/bundle.tar", folder)


def test_an_endpoint_is_fetched_once_for_each_etag(server, tmp_path):
    source = source_of(server, tmp_path / "got")
    first = source.look()
    assert tree(first) == FILES
    assert source.look() is None
    server.etag, server.body = '"2"', archive({**FILES, "tokenizer.json": b"other"})
    second = source.look()
    assert tree(second)["tokenizer.json"] == b"other"
    source.keep([second])
    assert [path.name for path in (tmp_path / "got").iterdir()] == [second.name]


def test_an_endpoint_that_is_cut_off_or_gives_rubbish(server, tmp_path):
    source = source_of(server, tmp_path / "got")
    server.cut = True
    assert source.look() is None
    assert source.look() is None  # asked again
    server.cut = False
    assert tree(source.look()) == FILES
    source.keep([])
    server.etag, server.body = '"2"', b"no archive"
    with pytest.raises(BundleError, match="http://"):
        source.look()
    assert source.look() is None  # told once
    assert list((tmp_path / "got").iterdir()) == []
    server.etag = None
    with pytest.raises(BundleError, match="ETag"):
        source.look()


def test_an_endpoint_that_is_not_there_is_asked_again(tmp_path, server):
    source = source_of(server, tmp_path / "got")
    source.url = "http://127.0.0.1:9/nobody"
    assert source.look() is None
