"""The manifest: which graph a processor gets, which names are inside, what is said of a wrong one."""

from __future__ import annotations

import ntpath
import posixpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rankdistill.export.errors import BundleError
from rankdistill.export.graphs.variants import OFFERED
from rankdistill.export.runtime.manifest import Manifest, is_inside, pick
from rankdistill.export.runtime.untrusted.bounded_files import hash_file
from rankdistill.export.runtime.untrusted.json_schema import Within, broken
from tests.faults.bundles import copy, edit


@pytest.mark.parametrize(
    ("has", "name"),
    [
        (["x86_64", "avx2", "avx512f", "avx512_vnni"], "qint8_avx512_vnni"),
        (["x86_64", "avx2", "avx_vnni"], "qint8_avx512_vnni"),
        (["x86_64", "avx2", "avx512f", "avx512_vnni", "amx_int8"], "qint8_avx512_vnni"),
        (["x86_64", "avx2", "avx512f"], "qint8_avx2"),
        (["x86_64"], "qint8_avx2"),
        (["arm64", "asimddp", "i8mm"], "qint8_arm64"),
        (["arm64"], "qint8_arm64"),
        (["riscv64"], "fp32"),
        (["ppc64le"], "fp32"),
        ([], "fp32"),
    ],
)
def test_a_processor_gets_the_graph_that_is_right_for_it(bundle, has, name):
    assert Manifest.read(bundle).variant(has=has).name == name


def test_a_bundle_without_int8_gives_fp32_to_all(bundle):
    plain = [variant for variant in Manifest.read(bundle).variants if variant.precision == "fp32"]
    for has in (["x86_64", "avx512_vnni"], ["arm64"], []):
        assert pick(plain, has).name == "fp32"


def test_the_machines_own_abilities_are_asked_when_none_are_given(bundle, monkeypatch):
    monkeypatch.setattr("rankdistill.export.runtime.manifest.abilities", lambda: frozenset(["arm64"]))
    assert Manifest.read(bundle).variant().name == "qint8_arm64"


def test_a_variant_is_taken_by_name(bundle):
    manifest = Manifest.read(bundle)
    made = [each for each in OFFERED if each.name != "weight8"]  # which is made instead of int8
    assert {manifest.variant(each.name).file for each in made} == {each.file for each in made}
    with pytest.raises(BundleError, match=r"has no variant fp16; it has qint8_avx512_vnni, .*fp32"):
        manifest.variant("fp16")


@pytest.mark.parametrize("name", ["a", "a/b", "onnx/model.onnx", ".hidden", "a..b", "ünï/模型.onnx", "SHA256SUMS"])
def test_names_that_are_inside(name):
    assert is_inside(name)


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "./a", "a\\b", "..\\a", "C:a", "C:\\a", "a\0",
     "a\nb", "a\rb", 'a"b', "a*", "a?", "a|b", "<a>", "a.", "a ", "a./b", "\x1b[2J", "\u202ea", "\ud800", "x" * 256],
)  # fmt: skip
def test_names_that_are_not_inside(name):
    assert not is_inside(name)


@given(st.text(alphabet="ab./\\:~ \0\n") | st.text())
@example("a/../../b")
def test_a_name_that_is_inside_leads_nowhere_else(name):
    if is_inside(name):
        for path in (posixpath, ntpath):
            assert not path.isabs(name)
            assert not path.splitdrive(name)[0]
            joined = path.normpath(path.join("/some/folder", name))
            assert joined == path.normpath("/some/folder") + path.sep + name.replace("/", path.sep)


@pytest.mark.parametrize(
    ("value", "schema", "line"),
    [
        (1, {"a": int}, "it is no object"),
        ({}, {"a": int}, "a is missing"),
        ({"a": "x"}, {"a": int}, "a is 'x', not a whole number"),
        ({"a": True}, {"a": int}, "a is True, not a whole number"),
        ({"a": 1.0}, {"a": int}, "a is 1.0, not a whole number"),
        ({"a": 0}, {"a": Within(int, 1, 9)}, "a is 0, not a whole number from 1 to 9"),
        ({"a": {"b": 1}}, {"a": {"*": str}}, "a.b is 1, not a text"),
        ({"a": [1, None]}, {"a": [float]}, "a[1] is None, not a number"),
        ({"a": {}}, {"a": [float]}, "a is no list"),
        ({"a": 1}, {"a": (str, type(None))}, "a is 1, not a text or null"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(value, schema, line):
    assert list(broken(value, schema, "")) == [line]


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({"a": 1, "more": 2}, {"a": int}),
        (1, float),
        (None, (str, type(None))),
        ([], [int]),
        ({}, {"*": int}),
        ({"x": []}, {"*": object}),
    ],
)
def test_what_is_right_is_not_told(value, schema):
    assert list(broken(value, schema, "")) == []


def test_a_manifest_knows_the_digest_of_its_file(bundle):
    assert Manifest.read(bundle).digest == hash_file(bundle / "manifest.json")


def test_a_manifest_with_much_wrong_is_told_in_one_short_line(bundle, tmp_path):
    folder = copy(bundle, tmp_path)
    edit(folder / "manifest.json", lambda content: content.update(variants=[{}] * 10_000, warnings=[{}] * 10_000))
    with pytest.raises(BundleError) as caught:
        Manifest.read(folder)
    assert str(caught.value).startswith(f"{folder / 'manifest.json'}: variants[0].name is missing; ")
    assert len(str(caught.value)) < 400


def test_a_processor_field_is_any_of(bundle):
    variant = Manifest.read(bundle).variants[0]
    assert variant.suits(["avx_vnni"])
    assert not variant.suits(["avx512f"])


def test_a_bundle_without_a_verdict_is_read_and_one_that_is_not_recommended_is_doubted(bundle, tmp_path):
    folder = copy(bundle, tmp_path)
    edit(folder / "manifest.json", lambda c: c["verdict"].update(status="not_shown"))
    assert Manifest.read(folder).verdict[0] == "not_shown"
    assert Manifest.read(folder).doubt is None
    sentence = "not recommended: the teacher\n\x1b[31mis below bm25"
    edit(folder / "manifest.json", lambda c: c.update(verdict={"status": "not_recommended", "sentence": sentence}))
    assert Manifest.read(folder).doubt == "not recommended: the teacher \\x1b[31mis below bm25"
    edit(folder / "manifest.json", lambda c: c.pop("verdict"))
    assert Manifest.read(folder).verdict is Manifest.read(folder).doubt is None


@pytest.mark.parametrize("verdict", [None, "recommended", {}, {"status": "best", "sentence": "x"}, {"status": 1}])
def test_a_verdict_of_another_shape_is_refused(bundle, tmp_path, verdict):
    folder = copy(bundle, tmp_path)
    edit(folder / "manifest.json", lambda c: c.update(verdict=verdict))
    with pytest.raises(BundleError, match="verdict"):
        Manifest.read(folder)
