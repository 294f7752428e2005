"""An Ed25519 signature over a bundle's checksums, and so over everything in it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from rankdistill.export.errors import BundleError, UserError
from rankdistill.export.extras import require
from rankdistill.export.runtime.manifest import SIGNATURE, SUMS
from rankdistill.export.runtime.untrusted.bounded_files import parse_json, read_bytes

ALGORITHM = "Ed25519"
MOST_KEY = 1 << 16  # bytes
FIELDS = ("algorithm", "public_key", "signature")


def sign(sums: bytes, key: Path) -> bytes:
    """Return the content of signature.json for the content of SHA256SUMS.

    Args:
        sums: what is signed.
        key: file of an unencrypted Ed25519 private key in PEM; `openssl genpkey -algorithm ed25519` makes one.

    Raises:
        UserError: if the file holds no such key, or the `cryptography` package is missing.
    """
    require("sign", "cryptography")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        private = load_pem_private_key(_read(key), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f"{key} is no unencrypted private key in PEM: {error}".split("\n")[0]) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise UserError(f"{key} is no Ed25519 key; `openssl genpkey -algorithm ed25519 -out NEW.pem` makes one")
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return _text(_base64(public), _base64(private.sign(sums)))


def check(folder: Path, key: Path) -> str | None:
    """Check a bundle's signature; returns what is wrong, None if nothing is.

    Args:
        folder: of the bundle.
        key: file of the signer's Ed25519 public key in PEM.

    Raises:
        UserError: if the file holds no such key, or the `cryptography` package is missing.
    """
    require("sign", "cryptography")
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    try:
        public = load_pem_public_key(_read(key))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{key} is no public key in PEM: {error}".split("\n")[0]) from error
    if not isinstance(public, Ed25519PublicKey):
        raise UserError(f"{key} is no Ed25519 public key")
    if not (folder / SIGNATURE).is_file():
        return "is missing: the bundle is not signed"
    try:
        content = read(folder)
        public.verify(base64.b64decode(content["signature"]), read_bytes(folder / SUMS))
    except BundleError as error:
        return str(error)
    except InvalidSignature:
        return f"not signed with the key of {key}, or {SUMS} was changed since"
    if content["public_key"] != _base64(public.public_bytes(Encoding.Raw, PublicFormat.Raw)):
        return f"names another key than {key}, which signed it"
    return None


def read(folder: Path) -> dict[str, Any]:
    """Return the content of a bundle's signature.json, whole to the last bit (which says nothing of who signed).

    Raises:
        BundleError: if it is not as `sign` wrote it.
    """
    content = read_bytes(folder / SIGNATURE, MOST_KEY)
    value = parse_json(content, SIGNATURE)
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in FIELDS):
        raise BundleError(f"{SIGNATURE}: no signature")
    try:
        base64.b64decode(value["signature"], validate=True)
    except ValueError as error:
        raise BundleError(f"{SIGNATURE}: no base64: {error}") from error
    if content != _text(value["public_key"], value["signature"]):
        raise BundleError(f"{SIGNATURE}: is not as it was written")
    return value


def _text(public: str, signature: str) -> bytes:
    content = {"algorithm": ALGORITHM, "public_key": public, "signature": signature}
    content["sha256"] = hashlib.sha256(f"{ALGORITHM} {public} {signature}".encode()).hexdigest()
    return (json.dumps(content, indent=2) + "\n").encode()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _read(key: Path) -> bytes:
    try:
        return read_bytes(key, MOST_KEY)
    except BundleError as error:
        raise UserError(str(error)) from error
