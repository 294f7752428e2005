"""What a worker that is begun later learns of the bundle that answers."""

from __future__ import annotations

import pytest

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.manifest import Manifest
from rankdistill.export.runtime.untrusted.bounded_files import hash_file
from rankdistill.export.serve.worker_commands import Commands, current


def write(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(text)
    return folder


def read(folder):
    return Manifest(folder, {}, (), hash_file(folder / "manifest.json"))


def test_a_later_worker_begins_with_what_answers_though_the_link_leads_elsewhere(tmp_path):
    told = tmp_path / "told"
    told.mkdir()
    assert current(told) is None
    link, one, other = tmp_path / "current", write(tmp_path / "a", "one"), write(tmp_path / "b", "other")
    link.symlink_to(one)
    Commands(told).keep_current(read(link))
    link.unlink()
    link.symlink_to(other)
    assert current(told) == one
    Commands(told).keep_current(read(link))
    assert current(told) == other


def test_a_bundle_that_was_replaced_in_its_place_is_not_taken_for_the_one_that_answers(tmp_path):
    told = tmp_path / "told"
    told.mkdir()
    bundle = write(tmp_path / "a", "one")
    Commands(told).keep_current(read(bundle))
    write(bundle, "another")
    with pytest.raises(UserError, match="was replaced by another"):
        current(told)
    (bundle / "manifest.json").unlink()
    with pytest.raises(UserError, match="is gone"):
        current(told)
