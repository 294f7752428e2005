"""Bundles whose books agree with what was done to them: checksums and manifest prove nothing, and it is found still."""

from __future__ import annotations

import os
import pickle
import subprocess
import zipfile

import pytest

from rankdistill.export.bundle.unsafe_files import entries
from rankdistill.export.errors import BundleError
from tests.faults import bundles
from tests.faults.bundles import check, edit, seal

pytestmark = pytest.mark.faults


def test_sealing_alone_changes_nothing(hostile):
    seal(hostile)
    assert bundles.wrong(hostile) == []


def test_links_are_refused(hostile):
    (hostile / "onnx/again.onnx").symlink_to("model.onnx")
    (hostile / "all").symlink_to("onnx", target_is_directory=True)
    (hostile / "README.md").unlink()
    (hostile / "README.md").symlink_to("/etc/passwd")
    (hostile / "loop.json").symlink_to("loop.json")
    seal(hostile)
    for name in ("onnx/again.onnx", "all", "README.md", "loop.json"):
        assert "a link; refused" in check(hostile, name)


def test_a_pipe_is_refused_and_not_waited_for(hostile):
    os.mkfifo(hostile / "more.json")
    check(hostile, "more.json")
    (hostile / "more.json").unlink()
    (hostile / "golden.jsonl").unlink()
    os.mkfifo(hostile / "golden.jsonl")
    check(hostile, "golden.jsonl")


@pytest.mark.parametrize(
    "name",
    ["back\\slash.json", "new\nline.json", "\x1b[2Jok.json", "colon:x.json", "end.", "\u202etxt.json", b"\xff.json"],
)
def test_names_that_harm_somewhere_are_refused_and_shown_escaped(hostile, name):
    path = os.path.join(os.fsencode(hostile), os.fsencode(name))  # noqa: PTH118
    with open(path, "w") as file:  # noqa: PTH123
        file.write("{}")
    shown = os.fsdecode(name) if isinstance(name, bytes) else name
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    assert "not safe on every system" in check(hostile, shown)


def test_pickles_and_archives_are_refused_whatever_they_are_called(hostile):
    for protocol in (2, 3, 4, 5):
        (hostile / f"special{protocol}.json").write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    with zipfile.ZipFile(hostile / "notes.txt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    (hostile / "weights.PT").write_bytes(b"anything")
    (hostile / "modeling.py").write_text("import os")
    seal(hostile)
    for name in ("special2.json", "special5.json", "notes.txt", "weights.PT", "modeling.py"):
        assert "can run code" in check(hostile, name)


def test_a_pickle_of_the_oldest_protocol_is_no_json(hostile):
    (hostile / "config.json").write_bytes(pickle.dumps({"a": 1}, protocol=0))
    seal(hostile)
    check(hostile, "config.json")


def test_weights_whose_length_looks_like_a_pickle_are_not_refused(hostile):
    import numpy as np
    from safetensors.numpy import save_file

    path = hostile / "model.safetensors"
    for padding in range(700):
        save_file({"x": np.zeros(2, np.float32)}, path, metadata={"filled": "x" * padding})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    assert path.read_bytes()[:2] == b"\x80\x02"
    seal(hostile)
    assert bundles.wrong(hostile) == []
    path.write_bytes(pickle.dumps({"a": 1}, protocol=4))
    seal(hostile)
    check(hostile, "model.safetensors")


def test_kinds_of_files_that_no_bundle_holds_are_refused(hostile):
    (hostile / "libcustom.so").write_bytes(b"\x7fELF")
    seal(hostile)
    check(hostile, "libcustom.so")


def test_a_file_more_or_less_than_listed_is_told(hostile):
    (hostile / "extra.json").write_text("{}")
    (hostile / "vocab.txt").unlink()
    assert {finding.what for finding in bundles.wrong(hostile)} == {"extra.json", "vocab.txt"}
    bundles.sum_up(hostile)
    assert {finding.what for finding in bundles.wrong(hostile)} == {"extra.json", "vocab.txt"}


@pytest.mark.parametrize("name", ["SHA256SUMS", "golden.jsonl", "tokenizer.json", "onnx/model.onnx"])
def test_a_missing_file_is_told(hostile, name):
    (hostile / name).unlink()
    assert bundles.names(bundles.wrong(hostile), name)
    if name != "SHA256SUMS":
        seal(hostile)
        assert name in check(hostile, "manifest.json")


def test_more_files_than_a_bundle_has_are_not_read(hostile):
    folder = hostile / "many"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number}.txt").touch()
    first = [name for name, _ in entries(hostile)][1000]
    assert "more than 1000 files" in check(hostile, first)


def test_a_file_of_a_size_without_measure_is_not_read(hostile):
    with (hostile / "vocab.txt").open("wb") as file:
        file.truncate(1 << 40)  # without a byte on the disk
    check(hostile, "vocab.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_told(hostile):
    (hostile / "vocab.txt").chmod(0)
    check(hostile, "vocab.txt")


def test_code_that_a_library_would_import_is_refused(hostile):
    edit(hostile / "config.json", lambda content: content.update(auto_map={"AutoModel": "evil--x.Model"}))
    edit(hostile / "tokenizer_config.json", lambda content: content.update(deep=[{"auto_map": {}}]))
    seal(hostile)
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" in check(hostile, name)


def test_code_is_refused_however_deep_and_in_any_file(hostile):
    edit(hostile / "config.json", lambda c: c.update(task_specific_params={"a": [{"custom_pipelines": {}}]}))
    edit(hostile / "special_tokens_map.json", lambda c: c.update(auto_map={"AutoTokenizer": "evil--x.T"}))
    seal(hostile)
    assert "custom_pipelines" in check(hostile, "config.json")
    assert "auto_map" in check(hostile, "special_tokens_map.json")


@pytest.mark.parametrize("field", ["_attn_implementation_internal", "custom_pipelines", "kernel_config", "of_2031"])
def test_a_field_that_nobody_knows_is_refused(field, hostile):
    edit(hostile / "config.json", lambda content: content.update({field: "evil/kernels"}))
    seal(hostile)
    assert field in check(hostile, "config.json")


def test_a_module_that_a_library_would_import_is_refused(hostile):
    (hostile / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "os.system"}]')
    seal(hostile)
    assert "os.system" in check(hostile, "modules.json")


def test_an_activation_that_is_no_activation_is_refused(hostile):
    for change in (
        {"sentence_transformers": {"activation_fn": "os.system"}},
        {"sentence_transformers": {}, "sbert_ce_default_activation_function": "os.system"},
    ):
        edit(hostile / "config.json", lambda content, change=change: content.update(change))
        seal(hostile)
        assert "os.system" in check(hostile, "config.json")


def test_checksums_that_are_a_million_lines_are_refused(hostile):
    with (hostile / "SHA256SUMS").open("a") as file:
        file.writelines(f"{number:064x}  file{number}\n" for number in range(200_000))
    assert len(check(hostile, "SHA256SUMS")) < 1000


def test_a_bundle_that_is_replaced_while_it_is_checked_is_not_called_wrong(hostile, tmp_path):
    code = f"""
import os, shutil
from pathlib import Path
from rankdistill.export.bundle import verification as verify
bundle = Path({str(hostile)!r})
calm = verify._files
def busy(*arguments):
    shutil.copytree(bundle, bundle.with_name("new"))
    bundle.rename(bundle.with_name("old"))
    bundle.with_name("new").rename(bundle)
    (bundle.with_name("old") / "SHA256SUMS").rename(bundle / "SHA256SUMS")
    (bundle / "SHA256SUMS").write_text("")
    return calm(*arguments)
verify._files = busy
from rankdistill.export.commands.main import main
import sys
sys.argv = ["ranker", "verify", str(bundle)]
main()
"""
    done = subprocess.run([bundles.sys.executable, "-c", code], cwd=bundles.ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "was replaced" in done.stderr
    assert "WRONG" not in done.stdout


def test_a_manifest_that_is_overwritten_while_it_is_checked_is_told(hostile, monkeypatch):
    from rankdistill.export.bundle import verification as verify_

    content = (hostile / "manifest.json").read_bytes()
    checked = verify_.check_golden

    def overwritten(*arguments):
        (hostile / "manifest.json").write_bytes(content.replace(b'"name"', b'"NAME"', 1))
        yield from checked(*arguments)

    monkeypatch.setattr(verify_, "check_golden", overwritten)
    with pytest.raises(BundleError, match="changed while it was checked"):
        list(verify_.verify(hostile))
