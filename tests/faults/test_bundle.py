"""Flipped bits and damaged files: found by `ranker verify`, and never served."""

from __future__ import annotations

import random
import subprocess

import pytest

from rankdistill.export.bundle.signature import sign
from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.ranker import Ranker
from tests.faults import bundles

pytestmark = pytest.mark.faults

FLIPS, LEAST = 500, 10  # in all, and of each file
HEAVY = ("torch", "transformers", "onnx", "jinja2", "matplotlib", "optimum", "datasets", "hydra", "cryptography")


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    folder = tmp_path_factory.mktemp("key")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(text)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    return folder


@pytest.fixture
def signed(bundle, key, tmp_path):
    folder = bundles.copy(bundle, tmp_path)
    (folder / "signature.json").write_bytes(sign((folder / "SHA256SUMS").read_bytes(), key / "key.pem"))
    return folder


def flips(folder, count, least, seed=0):
    """Draw a file and a bit of it: each file `least` times, then by size."""
    rng = random.Random(seed)
    names = bundles.files(folder)
    sizes = [(folder / name).stat().st_size for name in names]
    drawn = names * least + rng.choices(names, sizes, k=max(0, count - len(names) * least))
    return [(name, rng.randrange(8 * (folder / name).stat().st_size)) for name in drawn]


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_every_one_of_500_flipped_bits_is_found_and_its_file_named(signed, key):
    assert bundles.wrong(signed, key=key / "public.pem") == []
    drawn = flips(signed, FLIPS, LEAST)
    assert len(drawn) == FLIPS
    missed = []
    for number, (name, bit) in enumerate(drawn):
        flip(signed / name, bit)
        found = bundles.wrong(signed, key=key / "public.pem" if number % 2 else None)
        if not bundles.names(found, name):
            missed.append((name, bit, found))
        flip(signed / name, bit)
    assert missed == []
    assert bundles.wrong(signed, key=key / "public.pem") == []


def test_every_bit_of_the_checksums_is_found_and_the_checksums_blamed(signed):
    drawn = [("SHA256SUMS", bit) for bit in range(0, 8 * (signed / "SHA256SUMS").stat().st_size, 7)]
    missed = []
    for name, bit in drawn:
        flip(signed / name, bit)
        if not bundles.names(bundles.wrong(signed), "SHA256SUMS"):
            missed.append(bit)
        flip(signed / name, bit)
    assert missed == []


def test_a_flipped_bit_is_one_finding_for_one_file(signed):
    for name in ("onnx/model.onnx", "README.md", "config.json"):
        flip(signed / name, 1000)
        found = bundles.wrong(signed)
        assert [finding.what for finding in found] == [name]
        flip(signed / name, 1000)


def test_what_is_wrong_comes_first_and_no_damaged_graph_is_opened(signed, monkeypatch):
    monkeypatch.setattr(
        "rankdistill.export.bundle.verification.check_graph", lambda *_: pytest.fail("a damaged graph was opened")
    )
    flip(signed / "onnx/model.onnx", 1000)
    found = list(bundles.verify(signed))
    assert [finding.ok for finding in found] == sorted(finding.ok for finding in found)


def test_the_command_finds_flipped_bits_with_exit_code_1(signed, key):
    for name, bit in [*flips(signed, 4, 0, seed=1), ("signature.json", 900), ("SHA256SUMS", 900)]:
        flip(signed / name, bit)
        done = bundles.ranker("verify", signed, "--key", key / "public.pem")
        assert done.returncode == 1
        assert name in done.stdout
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1
        flip(signed / name, bit)
    assert bundles.ranker("verify", signed, "--key", key / "public.pem").returncode == 0


def test_verify_needs_no_training_stack(bundle):
    code = f"""
import sys
from pathlib import Path
from rankdistill.export.bundle.verification import verify
assert all(finding.ok for finding in verify(Path({str(bundle)!r})))
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([bundles.sys.executable, "-c", code], cwd=bundles.ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", ["tokenizer.json", "manifest.json"])
def test_a_damaged_file_is_never_loaded(signed, name):
    flip(signed / name, 4)
    with pytest.raises(BundleError, match=name):
        Ranker.load(signed)


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "a folder"])
def test_a_damaged_graph_is_never_served(signed, how):
    path = signed / "onnx/model.onnx"
    if how == "flipped":
        flip(path, 8 * 20_000)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.unlink()
        if how == "a folder":
            path.mkdir()
    with pytest.raises(BundleError, match=r"model\.onnx"):
        Ranker.load(signed, variant="fp32")


@pytest.mark.parametrize("where", ["nothing", "a file", "an empty folder", "a very long name"])
def test_what_is_no_bundle_is_told_in_one_line_with_exit_code_2(tmp_path, where):
    path = tmp_path / ("x" * 300 if where == "a very long name" else "it")
    if where == "a file":
        path.write_text("text")
    elif where == "an empty folder":
        path.mkdir()
    for command in (["verify", path], ["rank", path, "--query", "q", __file__]):
        done = bundles.ranker(*command)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("ranker: ")
        assert done.stderr.count("\n") == 1


def test_an_unknown_variant_is_a_bad_argument(bundle):
    done = bundles.ranker("verify", bundle, "--variant", "int4")
    assert done.returncode == 2
    assert "has no variant int4" in done.stderr
