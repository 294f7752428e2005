"""Versions: published whole, gone back from, pruned; what a kill leaves is nobody's version."""

from __future__ import annotations

import json
import os

import pytest

from rankdistill.errors import StoreError
from rankdistill.export.errors import UserError
from rankdistill.online import versions as versions_module
from rankdistill.online.versions import CURRENT, FIRST, RECORD, ROLLBACK, SET_ASIDE, UPDATE, Published


def publish(published, kind=UPDATE, *, text=None, **record):
    with published.next() as (number, work):
        (work / "bundle").mkdir()
        (work / "bundle" / "weights").write_text(text or f"of {number}")
        parent = {} if kind == FIRST else {"parent": record.pop("parent", number - 1)}
        return published.publish(number, work, {"kind": kind} | parent | record)


@pytest.fixture
def published(tmp_path):
    found = Published(tmp_path / "published")
    with found.locked():
        publish(found, FIRST)
        publish(found)
        publish(found)
    return found


def numbers(published):
    return [version.number for version in published.all()]


def served(published):
    return (published.folder / CURRENT / "weights").read_text()


def test_an_empty_folder_has_no_version(tmp_path):
    published = Published(tmp_path / "none")
    assert published.current() is None
    assert published.all() == []
    assert not (tmp_path / "none").exists()


def test_versions_count_from_0_and_the_last_is_served(published):
    assert numbers(published) == [0, 1, 2]
    assert published.current().number == 2
    assert served(published) == "of 2"
    assert (published.folder / CURRENT).readlink().parts == ("versions", "0002", "bundle")  # moves with its folder
    record = json.loads((published.versions / "0002" / RECORD).read_text())
    assert record["version"] == 2
    assert record["published"].endswith("+00:00")


def test_a_moved_folder_is_the_same(published, tmp_path):
    published.folder.rename(tmp_path / "moved")
    assert Published(tmp_path / "moved").current().number == 2


@pytest.mark.parametrize("instant", ["before the folder appears", "before the link is set", "while the link is made"])
def test_a_version_that_was_not_published_whole_is_none(published, monkeypatch, instant):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    def make_and_kill(self, folder):
        (self.folder / f".{CURRENT}.{os.getpid()}").symlink_to("versions/0003/bundle")
        raise Killed

    with monkeypatch.context() as patch:
        if instant == "before the folder appears":
            patch.setattr(versions_module, "publish_folder", kill)
        else:
            patch.setattr(Published, "_link", kill if instant == "before the link is set" else make_and_kill)
        with pytest.raises(Killed), published.locked():
            publish(published, text="half")
    assert numbers(published) == [0, 1, 2]
    assert served(published) == "of 2"
    with published.locked():
        assert sorted(path.name for path in published.versions.iterdir()) == ["0000", "0001", "0002"]
        assert not list(published.folder.glob(f".{CURRENT}.*"))
        assert publish(published).number == 3
    assert served(published) == "of 3"


def test_the_link_is_never_missing(published, monkeypatch):
    """It is replaced, not deleted and made: a service may look at any instant."""
    seen = []
    replace = versions_module.Path.replace

    def look(self, target):
        seen.append(served(published))
        replace(self, target)
        seen.append(served(published))

    monkeypatch.setattr(versions_module.Path, "replace", look)
    with published.locked():
        publish(published)
    assert seen[-2:] == ["of 2", "of 3"]


def test_only_one_publishes_at_a_time(published):
    with published.locked():
        with pytest.raises(UserError, match="another distill-update works there"), Published(published.folder).locked():
            pass
        publish(published)
    with Published(published.folder).locked():
        pass


def test_a_version_is_found_by_its_number(published):
    assert published.find(1).bundle.name == "bundle"
    with pytest.raises(UserError, match="no version 9 to go back to; it has 0, 1, 2"):
        published.find(9)


def test_what_is_before_is_what_a_student_was_made_of(published):
    with published.locked():
        back = publish(published, ROLLBACK, parent=1)  # instead of 2, which was bad
        assert published.before(back).number == 0  # not 2 again
        aside = publish(published, SET_ASIDE)
        assert published.student_of(aside).number == 1
        assert published.before(aside).number == 0
        again = publish(published, UPDATE)
        assert published.before(again).number == 1
    assert published.before(published.find(2)).number == 1
    with pytest.raises(UserError, match="version 0 has the first student"):
        published.before(published.find(0))


def test_pruning_keeps_the_newest_students(published):
    with published.locked():
        for _ in range(3):
            publish(published)
        assert published.prune(2) == [0, 1, 2, 3]
        assert numbers(published) == [4, 5]
        assert published.prune(2) == []
        assert sorted(path.name for path in published.versions.iterdir()) == ["0004", "0005"]


def test_events_set_aside_push_no_student_out(published):
    with published.locked():
        for _ in range(5):
            publish(published, SET_ASIDE)
        assert published.prune(2) == [0]
        assert numbers(published) == [1, 2, 3, 4, 5, 6, 7]


def test_pruning_keeps_the_version_before_the_current_one(published):
    with published.locked():
        assert published.prune(1) == [0]
        assert numbers(published) == [1, 2]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_pruning_keeps_what_is_gone_back_to(published, keep):
    with published.locked():
        publish(published, ROLLBACK, parent=0, text="of 0")
        publish(published)  # made of 3, whose student is that of 0
        published.prune(keep)
        before = published.before(published.current())
        assert (before.bundle / "weights").read_text() == "of 0"
        back = publish(published, ROLLBACK, parent=before.number, text="of 0")
        with pytest.raises(UserError, match=r"version 5 (has the first student|was made of has been pruned)"):
            published.before(back)


def test_pruning_keeps_what_the_served_student_was_made_of(published):
    with published.locked():
        for _ in range(3):
            publish(published)
        publish(published, ROLLBACK, parent=2)
        assert published.prune(2) == [0, 3]
        assert published.before(published.current()).number == 1


def test_what_a_kill_left_of_pruning_is_deleted(published):
    (published.versions / "0000").rename(published.versions / ".0000.removed")
    assert numbers(published) == [1, 2]
    with published.locked():
        assert not (published.versions / ".0000.removed").exists()


def test_a_copy_is_the_same_files(published, tmp_path):
    source = published.find(1).bundle
    published.copy(source, tmp_path / "copy")
    assert (tmp_path / "copy/weights").samefile(source / "weights")


def test_a_copy_is_made_where_links_cannot_be(published, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(versions_module.os, "link", refuse)
    published.copy(published.find(1).bundle, tmp_path / "copy")
    assert (tmp_path / "copy/weights").read_text() == "of 1"


def test_a_link_to_something_else_is_told(tmp_path):
    folder = tmp_path / "published"
    (folder / "elsewhere").mkdir(parents=True)
    (folder / CURRENT).symlink_to("elsewhere")
    with pytest.raises(StoreError, match="leads to elsewhere, no version of this folder"):
        Published(folder).current()
    (folder / CURRENT).unlink()
    (folder / CURRENT).mkdir()
    with pytest.raises(StoreError, match="is no link"):
        Published(folder).current()


def test_a_broken_record_is_told(published):
    (published.versions / "0001" / RECORD).write_text('{"half')
    assert published.current().number == 2
    with pytest.raises(StoreError, match=r"0001/version\.json cannot be read"):
        published.all()
