"""Threads from affinity and cgroup quota, both versions."""

from __future__ import annotations

import os

import pytest

from rankdistill.export.runtime.threads import allotted_cores, available_cores

CORES = len(os.sched_getaffinity(0))


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, CORES),
        ({"cpu.max": "max 100000\n"}, CORES),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, min(CORES, 64)),
        ({"cpu.max": "nonsense\n"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_cores_are_bounded_by_the_quota(tmp_path, files, expected):
    assert available_cores(write(tmp_path, files)) == expected


def test_affinity_counts(tmp_path):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("share", "expected"),
    [("1", 1), ("1,4", 1), (None, CORES), ("", CORES), ("0", CORES), ("many", CORES), (str(10 * CORES), CORES)],
)
def test_a_launchers_share_is_kept(monkeypatch, share, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if share is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", share)
    assert allotted_cores() == expected


def test_training_keeps_to_a_launchers_share(monkeypatch):
    import torch

    from rankdistill.options import Train
    from rankdistill.training.device import Device

    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(CORES + 1)
    try:
        Device.resolve(Train())
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
