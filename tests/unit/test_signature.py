"""Signatures: with the right key over an unchanged bundle, and with everything else."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess

import pytest

from rankdistill.export.bundle import signature
from rankdistill.export.errors import BundleError, UserError
from tests.faults import bundles

pytest.importorskip("cryptography")
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


def write_keys(folder, private, name="key", cipher=None):
    text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher or NoEncryption())
    (folder / f"{name}.pem").write_bytes(text)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)


@pytest.fixture
def keys(tmp_path):
    write_keys(tmp_path, Ed25519PrivateKey.generate())
    write_keys(tmp_path, Ed25519PrivateKey.generate(), "other")
    write_keys(tmp_path, Ed25519PrivateKey.generate(), "secret", BestAvailableEncryption(b"word"))
    write_keys(tmp_path, rsa.generate_private_key(65537, 2048), "rsa")
    (tmp_path / "garbage.pem").write_bytes(b"\x00\xffno key")
    (tmp_path / "garbage.pub").write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    (tmp_path / "huge.pem").write_bytes(b"x" * 100_000)
    return tmp_path


@pytest.fixture
def signed(tmp_path, keys):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "SHA256SUMS").write_bytes(b"0" * 64 + b"  manifest.json\n")
    write_signature(folder, keys / "key.pem")
    return folder


def write_signature(folder, key):
    (folder / "signature.json").write_bytes(signature.sign((folder / "SHA256SUMS").read_bytes(), key))


def test_the_signers_key_finds_nothing_wrong(signed, keys):
    assert signature.check(signed, keys / "key.pub") is None
    assert signature.read(signed)["algorithm"] == "Ed25519"


def test_signing_twice_gives_the_same_bytes(keys):
    assert signature.sign(b"x", keys / "key.pem") == signature.sign(b"x", keys / "key.pem")


def test_another_key_or_a_changed_bundle_is_told(signed, keys):
    assert "not signed with the key" in signature.check(signed, keys / "other.pub")
    (signed / "SHA256SUMS").write_bytes(b"1" * 64 + b"  manifest.json\n")
    assert "SHA256SUMS was changed" in signature.check(signed, keys / "key.pub")


def test_an_unsigned_bundle_is_told_when_a_signature_is_asked_for(signed, keys):
    (signed / "signature.json").unlink()
    assert "not signed" in signature.check(signed, keys / "key.pub")


def test_a_signature_that_claims_anothers_key_is_told(signed, keys):
    other = json.loads(signature.sign(b"", keys / "other.pem"))["public_key"]
    own = json.loads((signed / "signature.json").read_text())["signature"]
    (signed / "signature.json").write_bytes(signature._text(other, own))
    assert "names another key" in signature.check(signed, keys / "key.pub")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b'{"algorithm": "Ed25519", "public_key": "x", "signature": 1}',
     b'{"algorithm": "Ed25519", "public_key": "x", "signature": "\xc3\xbc"}',
     b'{"algorithm": "Ed25519", "public_key": "\\ud800", "signature": "AAAA"}',
     b'{"algorithm": "Ed25519", "public_key": "x", "signature": "AAAA"}', signature._text("", ""),
     signature._text("x", "AAAA"), b"[" * 60_000, b"x" * 100_000],
)  # fmt: skip
def test_what_is_no_signature_is_told_and_never_believed(signed, keys, content):
    (signed / "signature.json").write_bytes(content)
    assert signature.check(signed, keys / "key.pub")
    assert signature.check(signed, keys / "key.pub").count("\n") == 0


def test_every_changed_bit_of_a_signature_is_found(signed, keys):
    path = signed / "signature.json"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"signature\.json"):
            signature.read(signed)


@pytest.mark.parametrize("name", ["secret.pem", "rsa.pem", "garbage.pem", "huge.pem", "key.pub", "none.pem", "."])
def test_what_cannot_sign_is_told_in_one_line_that_names_the_file(keys, name):
    with pytest.raises(UserError) as caught:
        signature.sign(b"", keys / name)
    assert str(keys / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["rsa.pub", "garbage.pub", "garbage.pem", "huge.pem", "key.pem", "none.pub", "."])
def test_what_cannot_check_is_a_mistake_of_the_user_and_no_finding(signed, keys, name):
    with pytest.raises(UserError) as caught:
        signature.check(signed, keys / name)
    assert str(keys / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_the_pip_command_is_named(signed, keys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for act in (lambda: signature.sign(b"", keys / "key.pem"), lambda: signature.check(signed, keys / "key.pub")):
        with pytest.raises(UserError, match=r"pip install 'rankdistill\[sign\]'"):
            act()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_openssl_agrees(signed, keys):
    content = json.loads((signed / "signature.json").read_text())
    (keys / "raw").write_bytes(base64.b64decode(content["signature"]))
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-sigfile", keys / "raw", "-in", signed / "SHA256SUMS"]
    for name, right in (("key.pub", True), ("other.pub", False)):
        done = subprocess.run([*command, "-pubin", "-inkey", keys / name], capture_output=True, text=True)
        assert (done.returncode == 0) is right, done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_a_key_of_openssl_signs(keys, tmp_path):
    done = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", keys / "own.pem"], capture_output=True
    )
    assert done.returncode == 0
    assert json.loads(signature.sign(b"x", keys / "own.pem"))["algorithm"] == "Ed25519"


@pytest.mark.integration
def test_the_commands_sign_and_check(bundle, keys):
    out = keys / "out"
    assert bundles.ranker("bundle", bundle.parent, "-o", out, "--sign", keys / "key.pem").returncode == 0
    done = bundles.ranker("verify", out, "--key", keys / "key.pub")
    assert done.returncode == 0, done.stdout
    assert "ok    signature.json: signed with the key of" in done.stdout
    done = bundles.ranker("verify", out, "--key", keys / "other.pub")
    assert done.returncode == 1
    assert "WRONG signature.json: " in done.stdout.splitlines()[0]
    done = bundles.ranker("verify", out, "--key", keys / "rsa.pub")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "claims the key" in bundles.ranker("verify", out).stdout
    assert "signature.json: is missing" in bundles.ranker("verify", bundle, "--key", keys / "key.pub").stdout
