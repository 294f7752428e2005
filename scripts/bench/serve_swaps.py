"""Swaps and rollbacks under load, and bad bundles offered: no request lost, none answered by two models or a stale one.

python scripts/bench/serve_swaps.py --bundle CASCADE_BUNDLE --data FOLDER --out serve_swaps.json

Two bundles that score otherwise (the student in 8 bits, and in fp32) are offered in turn while requests come; each
answer's scores are compared with both bundles' own. Then bundles that are cut off or flipped in a bit, and a slower one
(the teacher), are offered.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import parts
from load import Mix
from service import serving

from rankdistill.export.files import write_atomic
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.runtime.ranker import Ranker

TEXTS, SKEW = 20, 0.9
QUERIES = 50  # that the load asks, over and over: what it knows of one model must never answer for another
PATIENCE_S = 120.0


class Traffic:
    """Clients that ask without a pause and compare what they get with the two models' scores."""

    def __init__(self, url: str, mix: Mix, truths: dict[str, np.ndarray], clients: int) -> None:
        self.url, self.mix, self.truths = url, mix, truths
        self.counts: dict[str, int] = {"answers": 0, "failed": 0, "mixed": 0, "stale": 0}
        self._allowed = set(truths)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def only(self, model: str | None) -> None:
        """Say that what is asked from now on must be answered by one model (None: by either)."""
        with self._lock:
            self._allowed = set(self.truths) if model is None else {model}

    def stop(self) -> None:
        """End the clients."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self._stop.is_set():
                row = int(rng.integers(QUERIES))
                with self._lock:
                    allowed = set(self._allowed)
                body = {"query": self.mix.queries[row], "texts": self.mix.items[row], "raw_scores": True}
                answer = client.post("/rerank", json=body)
                self._count(row, allowed, answer)

    def _count(self, row: int, allowed: set[str], answer: httpx.Response) -> None:
        with self._lock:
            self.counts["answers"] += 1
            if answer.status_code != 200:
                self.counts["failed"] += 1
                return
            scores = np.empty(TEXTS, dtype=np.float32)
            for each in answer.json():
                scores[each["index"]] = each["score"]
            by = {name for name, truth in self.truths.items() if np.array_equal(truth[row], scores)}
            self.counts["mixed"] += not by
            # what was asked when one model alone answered, and still does, cannot come of the other
            self.counts["stale"] += bool(by) and by.isdisjoint(allowed | self._allowed)


class Operator:
    """Tells the service what to do, and waits until it has."""

    def __init__(self, url: str, token: str, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=60)

    def models(self) -> dict[str, Any]:
        """Return what /admin/models tells."""
        content: dict[str, Any] = self._client.get("/admin/models").json()
        return content

    def offer(self, bundle: Path) -> dict[str, Any]:
        """Offer a bundle, by a name of its own, and return what became of it."""
        self._count += 1
        name = self._folder / f"offer-{self._count}"
        name.symlink_to(bundle)
        self._client.post("/admin/offer", json={"bundle": str(name)}).raise_for_status()
        return self._wait(
            lambda models: next((offer for offer in models["offers"] if offer["bundle"] == str(name)), None)
        )

    def roll_back(self) -> None:
        """Go back to the model before."""
        before = self.models()["rollbacks"]
        self._client.post("/admin/rollback").raise_for_status()
        self._wait(lambda models: models if models["rollbacks"] > before else None)

    def _wait(self, found: Any) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while (answer := found(self.models())) is None:
            if time.monotonic() > end:
                raise TimeoutError("the service did not do what it was told")
            time.sleep(0.05)
        return dict(answer)


def truths(bundles: list[Path], mix: Mix) -> dict[str, np.ndarray]:
    """Return the scores of each bundle, by its model's name, float32 [queries, texts]."""
    found = {}
    for bundle in bundles:
        with Ranker.load(bundle) as ranker:
            found[ranker.key] = np.array([ranker.score_items(mix.queries[n], mix.items[n]) for n in range(QUERIES)])
    return found


def damaged(bundle: Path, folder: Path, number: int, rng: np.random.Generator) -> Path:
    """Return a copy of a bundle of which one file is cut off or has another bit."""
    copy = folder / f"bad-{number}"
    shutil.copytree(bundle, copy)
    path = rng.choice(sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size))
    content = bytearray(path.read_bytes())
    place = int(rng.integers(len(content)))
    if number % 2:
        content[place] ^= 1 << int(rng.integers(8))
    else:
        del content[place:]
    path.write_bytes(content)
    return copy


def swaps(options: argparse.Namespace, mix: Mix, folder: Path) -> dict[str, Any]:
    """Swap and roll back while requests come."""
    bundles = [folder / "student", folder / "other"]
    known, token = truths(bundles, mix), secrets.token_hex(16)
    names = list(known)
    settings = {"cache": {"mb": 8}, "reload": {"share": 0.0, "warm": 0}}
    with serving(bundles[0], settings, {"RANKER_ADMIN_TOKENS": token}) as process:
        url = f"http://{process.address[0]}:{process.address[1]}"
        operator, traffic = Operator(url, token, folder), Traffic(url, mix, known, options.clients)
        current, accepted, rollbacks = 0, 0, 0
        for number in range(options.swaps):
            traffic.only(None)
            accepted += bool(operator.offer(bundles[1 - current])["accepted"])
            current = 1 - current
            if number % 5 == 4:
                operator.roll_back()
                rollbacks, current = rollbacks + 1, 1 - current
            traffic.only(names[current])
        traffic.stop()
    return {"swaps": accepted, "rollbacks": rollbacks, **traffic.counts}


def bad(options: argparse.Namespace, mix: Mix, folder: Path) -> dict[str, Any]:
    """Offer bundles that are cut off, flipped in a bit or slower, in turn, while requests come; none may answer."""
    own, other, slower = (folder.parent / name for name in ("student", "other", "slower"))
    known, token = truths([own], mix), secrets.token_hex(16)
    settings = {"cache": {"mb": 0}, "reload": {"share": 1.0, "requests": 20, "min_overlap": 0.0}}
    rng, reasons, let_in = np.random.default_rng(0), [], 0
    with serving(own, settings, {"RANKER_ADMIN_TOKENS": token}) as process:
        url = f"http://{process.address[0]}:{process.address[1]}"
        operator, traffic = Operator(url, token, folder), Traffic(url, mix, known, options.clients)
        for number in range(options.bad):
            slow = number % 3 == 2
            copy = slower if slow else damaged(other, folder, number, rng)
            offer = operator.offer(copy)
            let_in += bool(offer["accepted"])
            if slow:
                reasons.append(offer["reason"])
            else:
                shutil.rmtree(copy)
        models = operator.models()
        traffic.stop()
    return {
        "offered": options.bad, "of_them_slower": len(reasons), "let_in": let_in, "said_of_slower": reasons[:3],
        "swapped_out": models["rollbacks"], **traffic.counts,
    }  # fmt: skip


def main() -> None:
    """Run it and keep the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--bad", type=int, default=50)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    os.environ.pop("RANKER_TOKENS", None)
    with tempfile.TemporaryDirectory() as folder:
        mix = Mix.of(options.data, TEXTS, SKEW)
        parts.student(options.bundle, Path(folder) / "student")
        parts.student(options.bundle, Path(folder) / "other", "fp32")
        parts.teacher(options.bundle, Path(folder) / "slower")
        found = {"swaps": swaps(options, mix, Path(folder))}
        print(json.dumps(found), flush=True)
        (Path(folder) / "bad").mkdir()
        found["bad"] = bad(options, mix, Path(folder) / "bad")
    found |= {"host": describe_host(), "versions": versions(["rankdistill", "onnxruntime"])}
    print(json.dumps(found, indent=2))
    write_atomic(options.out, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
