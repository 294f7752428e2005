"""Whether a bundle is whole, safe, and gives here what it gave where it was made; needs no training stack."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rankdistill.export.bundle import signature
from rankdistill.export.bundle.embedder_golden import check_embedder
from rankdistill.export.bundle.finding import Finding, refusal
from rankdistill.export.bundle.golden_replay import check_golden, check_graph, check_stages
from rankdistill.export.bundle.unsafe_files import entries, unsafe_content, unsafe_files
from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.manifest import CASCADE, EMBEDDER, FP32, MANIFEST, SIGNATURE, SUMS, Manifest
from rankdistill.export.runtime.untrusted.bounded_files import hash_file, read_bytes

MOST_SUMS = 1 << 20  # bytes
GRAPH = ".onnx"
VERDICT = "verdict"
NO_VERDICT = "none, it was made before there were any; ranker gate decides one"


def verify(folder: Path, variants: Sequence[str] = (), key: Path | None = None) -> Iterator[Finding]:
    """Check a bundle, cheap and safe things first.

    The checks go from what may be read at all over the files to graphs, tokens and scores; a step in which something is
    wrong is the last, so that a file that is not as it was written is never loaded. Its wrong findings come first.

    Args:
        folder: of the bundle.
        variants: names of the graphs whose scores are checked; empty for fp32 and the one for this processor.
        key: file of the signer's public key; None to ask for no signature.

    Raises:
        BundleError: if it is no bundle at all, has no variant of that name, or was replaced meanwhile.
        UserError: if the key cannot be read.
    """
    before = _identity(folder)
    try:
        for finding in _findings(folder, variants, key):
            if not finding.ok and _identity(folder) != before:
                break
            yield finding.plain()
    except (BundleError, OSError) as error:
        if _identity(folder) == before:
            raise error if isinstance(error, BundleError) else _unreadable(folder, error) from error
    if _identity(folder) != before:
        raise BundleError(f"{folder} was replaced or changed while it was checked; check it again")


def _identity(folder: Path) -> tuple[int | None, ...]:
    """Return what is another for another folder of that name, or for one whose manifest, sums or signature changed."""
    try:
        there = (folder / MANIFEST).exists()
        status = folder.stat() if there else None
    except OSError as error:
        raise _unreadable(folder, error) from error
    if status is None:
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}; `ranker bundle RUN` makes one")
    found: list[int | None] = [status.st_dev, status.st_ino, status.st_ctime_ns]
    for name in (MANIFEST, SUMS, SIGNATURE):  # what is said of all other files
        try:
            file = (folder / name).lstat()
        except OSError:  # told of by the checks
            found.append(None)
        else:
            found += [file.st_ino, file.st_size, file.st_ctime_ns]
    return tuple(found)


def _unreadable(folder: Path, error: OSError) -> BundleError:
    return BundleError(f"{error.filename or folder} cannot be read: {error.strerror}")


def _findings(folder: Path, variants: Sequence[str], key: Path | None) -> Iterator[Finding]:
    unsafe = [*unsafe_files(folder)]
    yield from unsafe
    if unsafe:
        return
    digests = {name: hash_file(folder / name) for name, status in entries(folder) if stat.S_ISREG(status.st_mode)}
    manifest, found = _manifest(folder)
    chosen = []
    if manifest is not None:  # a name that the manifest does not have is a mistake of the caller: told first
        chosen = [manifest.variant(name) for name in variants or dict.fromkeys([manifest.variant().name, FP32])]
    files = [*_files(folder, digests, manifest), found, *_signature(folder, key)]
    yield from sorted(files, key=lambda finding: finding.ok)
    if manifest is None or not all(finding.ok for finding in files):
        return
    graphs = [check_graph(folder, name) for name in digests if name.endswith(GRAPH)]
    yield from sorted(graphs, key=lambda finding: finding.ok)
    if all(finding.ok for finding in graphs):
        yield from check_golden(manifest, chosen)
        if CASCADE in manifest.content["files"]:
            yield from check_stages(manifest)
        if EMBEDDER in manifest.content["files"]:
            yield from check_embedder(manifest)
        yield Finding(True, VERDICT, NO_VERDICT if manifest.verdict is None else manifest.verdict[1], aside=True)


def _manifest(folder: Path) -> tuple[Manifest | None, Finding]:
    try:
        manifest = Manifest.read(folder)
    except BundleError as error:
        return None, refusal(folder, MANIFEST, error)
    detail = f"format {manifest.content['format']}, {len(manifest.variants)} variants"
    return manifest, Finding(True, MANIFEST, detail)


def _files(folder: Path, digests: Mapping[str, str], manifest: Manifest | None) -> Iterator[Finding]:
    """Compare files with SHA256SUMS, the manifest, and what files of their kind may hold: one finding each."""
    sums = [*_sums(folder, digests, manifest)]
    yield from sums
    wrong = {finding.what for finding in sums if not finding.ok}
    if manifest is not None:
        for finding in _listed(manifest, digests):
            if finding.what not in wrong:
                yield finding
                wrong.add(finding.what)
    for name in digests:
        if name not in (MANIFEST, SIGNATURE) and name not in wrong and (found := unsafe_content(folder, name)):
            yield found


def _sums(folder: Path, digests: Mapping[str, str], manifest: Manifest | None) -> Iterator[Finding]:
    """Compare every file with SHA256SUMS, and that file with itself."""
    try:
        told = read_bytes(folder / SUMS, MOST_SUMS).decode("utf-8")
    except (BundleError, UnicodeDecodeError) as error:
        yield refusal(folder, SUMS, error)
        return
    found = {name: digests[name] for name in sorted(digests) if name not in (SUMS, SIGNATURE)}
    if told == "".join(f"{digest}  {name}\n" for name, digest in found.items()):
        yield Finding(True, SUMS, f"{len(found)} files are as they were written")
        return
    lines = dict(line.split("  ", 1)[::-1] for line in told.split("\n") if "  " in line)
    differing = [name for name in sorted(found.keys() | lines.keys()) if found.get(name) != lines.get(name)]
    for name in differing:
        yield _differing(name, found.get(name), lines.get(name), manifest)
    if not differing:
        yield Finding(False, SUMS, "is not as it was written")


def _differing(name: str, found: str | None, told: str | None, manifest: Manifest | None) -> Finding:
    """Return the finding for a file on which SHA256SUMS is wrong, or that is wrong: the manifest knows which."""
    listed = manifest.content["files"].get(name, {}).get("sha256") if manifest else None
    if found is not None and found == listed:
        says = "does not name" if told is None else f"says {told[:12]}... of"
        return Finding(False, SUMS, f"{says} {name}, which is the file of {MANIFEST}")
    if told is None:
        return Finding(False, name, f"is not in {SUMS}")
    if found is None:
        return Finding(False, name, f"is in {SUMS} but not there")
    return Finding(False, name, f"sha256 is {found[:12]}..., {SUMS} says {told[:12]}...")


def _listed(manifest: Manifest, digests: Mapping[str, str]) -> Iterator[Finding]:
    """Compare the files with what the manifest says of them, which SHA256SUMS alone does not prove."""
    listed = manifest.content["files"]
    there = digests.keys() - {MANIFEST, SUMS, SIGNATURE}
    for name in sorted(there | listed.keys()):
        if name not in listed:
            yield Finding(False, name, f"is not in {MANIFEST}")
        elif name not in there:
            yield Finding(False, name, f"is in {MANIFEST} but not there")
        elif manifest.file(name) != (digests[name], (manifest.folder / name).stat().st_size):
            yield Finding(False, name, f"is not the file of {MANIFEST}")


def _signature(folder: Path, key: Path | None) -> Iterator[Finding]:
    if key is not None:
        wrong = signature.check(folder, key)
        detail = wrong.removeprefix(f"{SIGNATURE}: ") if wrong else f"signed with the key of {key}"
        yield Finding(not wrong, SIGNATURE, detail)
    elif (folder / SIGNATURE).exists():
        try:
            public = signature.read(folder)["public_key"]
        except BundleError as error:
            yield refusal(folder, SIGNATURE, error)
        else:
            yield Finding(True, SIGNATURE, f"claims the key {public}; whether it is true is checked with --key")
