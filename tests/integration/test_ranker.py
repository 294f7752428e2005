"""The ranker of a bundle: what it gives does not depend on company, order, threads, forks; what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rankdistill import Ranker
from rankdistill.export.errors import BundleError
from tests.conftest import THINGS, WORDS

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch", "transformers", "optimum", "datasets", "hydra", "omegaconf", "onnx", "pyarrow", "scipy", "jinja2",
    "matplotlib", "tqdm", "filelock",
)  # fmt: skip


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS + THINGS, rng.integers(0, 30))) for _ in range(80)]
    odd = ["红色 台灯", "🚀 film", "naïve café", "\ud800 half a pair", "x" * 3000, "", "[SEP] red [CLS]"]
    texts += odd
    return [(texts[(7 * n) % len(texts)], texts[n]) for n in range(len(texts))]


@pytest.fixture(scope="module", params=["qint8_avx512_vnni", "qint8_avx2", "fp32"])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def expected(bundle, variant, pairs):
    with Ranker.load(bundle, variant=variant, threads=1) as ranker:
        return np.array([ranker.score([pair])[0] for pair in pairs])


def test_scores_are_the_golden_ones(bundle, variant):
    rows = [json.loads(line) for line in (bundle / "golden.jsonl").read_text(encoding="utf-8").split("\n") if line]
    if variant not in rows[0]["scores"]:
        pytest.skip("this processor does not compute that graph exactly, so there are no golden scores of it")
    with Ranker.load(bundle, variant=variant) as ranker:
        scores = ranker.score([(row["query"], row["item"]) for row in rows])
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, np.array([row["scores"][variant] for row in rows], dtype=np.float32))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_a_score_is_bitwise_the_same_alone_and_in_any_company_order_and_number_of_threads(
    bundle, variant, pairs, expected, threads
):
    rng = np.random.default_rng(threads)
    with Ranker.load(bundle, variant=variant, threads=threads) as ranker:
        np.testing.assert_array_equal(ranker.score(pairs), expected)
        for _ in range(5):
            rows = rng.integers(0, len(pairs), rng.integers(1, 40))
            np.testing.assert_array_equal(ranker.score([pairs[row] for row in rows]), expected[rows])


def test_scores_are_the_same_when_many_threads_ask_at_once(bundle, variant, pairs, expected):
    with Ranker.load(bundle, variant=variant, threads=2, keep_mb=0.01) as ranker:

        def work(seed):
            rng = np.random.default_rng(seed)
            for _ in range(10):
                rows = rng.integers(0, len(pairs), 12)
                np.testing.assert_array_equal(ranker.score([pairs[row] for row in rows]), expected[rows])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))


def test_rank_is_the_order_of_the_scores(bundle, pairs):
    items = [item for _, item in pairs] * 2  # equal scores: the earlier item first
    with Ranker.load(bundle) as ranker:
        scores = ranker.score([("red car", item) for item in items])
        ranked = ranker.rank("red car", items)
        assert [index for index, _ in ranked] == sorted(range(len(items)), key=lambda row: (-scores[row], row))
        assert [score for _, score in ranked] == [float(scores[index]) for index, _ in ranked]
        assert ranker.rank("red car", items, top_k=3) == ranked[:3]
        assert ranker.rank("red car", items, top_k=0) == []
        assert ranker.rank("red car", []) == []
        assert ranker.score([]).shape == (0,)


def test_what_cannot_be_scored_is_refused(bundle):
    with Ranker.load(bundle) as ranker:
        with pytest.raises(TypeError, match="a text is a NoneType"):
            ranker.score([("red", None)])
        with pytest.raises(TypeError, match="a text is a bytes"):
            ranker.rank("red", [b"car"])
        with pytest.raises(ValueError, match="top_k=-1"):
            ranker.rank("red", ["car"], top_k=-1)
    for options, message in (({"threads": 0}, "threads=0"), ({"keep_mb": -1}, "keep_mb=-1")):
        with pytest.raises(ValueError, match=message):
            Ranker.load(bundle, **options)
    with pytest.raises(BundleError, match="has no variant int4; it has qint8_avx512_vnni"):
        Ranker.load(bundle, variant="int4")


def test_a_closed_ranker_leaves_no_thread_and_says_that_it_is_closed(bundle):
    before = set(threading.enumerate())
    ranker = Ranker.load(bundle, threads=4)
    ranker.rank("red", ["car", "boat", "lamp"])
    ranker.close()
    ranker.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(RuntimeError, match="closed"):
        ranker.score([("red", "car")])


FORK = """
import os, sys, threading, numpy as np
from rankdistill import Ranker
pairs = [("red car", "fast red car"), ("红色 台灯", "红"), ("old", "café ☕"), ("", "")] * 6
ranker = Ranker.load(sys.argv[1], threads=3)
expected = ranker.score(pairs)
stop = threading.Event()
def busy():
    while not stop.is_set():
        ranker.score(pairs)
threads = [threading.Thread(target=busy) for _ in range(3)]
[thread.start() for thread in threads]
def same():
    return np.array_equal(ranker.score(pairs), expected)
def fork(work):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() else 3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
results = [fork(lambda: same() and fork(same)) for _ in range(8)]
stop.set()
[thread.join() for thread in threads]
assert same()
ranker.close()
assert all(results), results
print("forked well")
"""


@pytest.mark.parametrize("parallelism", [None, "true", "false"])
def test_a_forked_process_and_its_children_score_the_same_while_the_parent_is_busy(bundle, parallelism):
    env = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    env |= {} if parallelism is None else {"TOKENIZERS_PARALLELISM": parallelism}
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(bundle)], capture_output=True, text=True, cwd=ROOT, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "forked well"


def test_it_loads_and_scores_where_the_training_stack_cannot_be_imported(bundle):
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top, _, rest = name.partition('.')
        if top in {HEAVY!r} or rest.split('.')[0] not in ('', 'export') and top == 'rankdistill':
            raise ImportError(name + ' must not be imported here')
sys.meta_path.insert(0, Refuse())
from rankdistill import Ranker
with Ranker.load({str(bundle)!r}) as ranker:
    assert len(ranker.rank("red car", ["old boat", "red car"])) == 2
import rankdistill.export.bundle.verification
assert all(finding.ok for finding in rankdistill.export.bundle.verification.verify(ranker.manifest.folder))
import rankdistill.export.commands.main, json, pathlib
budget = pathlib.Path({str(bundle.parent / "b.yaml")!r})
budget.write_text(json.dumps({{"require": ["retention >= 0.01", "p95_ms <= 9999"]}}))
for command in (["gate", "--budget", str(budget)], ["bench", "--seconds", "0.1", "--least", "2"]):
    try:
        rankdistill.export.commands.main.app([command[0], {str(bundle)!r}, *command[1:]])
    except SystemExit as end:
        assert end.code == 0, end.code
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_one_core_is_enough(bundle):
    code = """
import os, sys, threading
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from rankdistill import Ranker
with Ranker.load(sys.argv[1]) as ranker:
    assert ranker.threads == 1
    ranker.rank("red car", ["old boat", "red car"])
    assert threading.active_count() == 1
"""
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_pairs_may_come_one_by_one(bundle):
    with Ranker.load(bundle) as ranker:
        pairs = [("red car", "blue boat"), ("red car", "red car")]
        np.testing.assert_array_equal(ranker.score(iter(pairs)), ranker.score(pairs))
