"""Models exchanged under load: every request ends with the model it began with, and none is closed in use."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.export.errors import UserError
from rankdistill.export.serve.models.model_slot import Model, Slot


def model(name, closed):
    return Model(name, content=None, close=lambda: closed.append(name))


def test_a_model_is_closed_once_it_is_retired_and_free():
    closed = []
    slot = Slot(model("a", closed))
    lease = slot.lease()
    slot.swap(model("b", closed))
    slot.swap(model("c", closed))
    assert closed == []  # a is two back, but in use
    lease.release()
    lease.release()
    assert closed == ["a"]
    assert slot.current.name == "c"
    assert slot.previous.name == "b"


def test_going_back_is_possible_once():
    closed = []
    slot = Slot(model("a", closed))
    with pytest.raises(UserError, match="no model to go back to"):
        slot.roll_back()
    slot.swap(model("b", closed))
    with slot.lease() as used:
        assert slot.roll_back().name == used.name == "b"
        assert slot.current.name == "a"
        assert closed == []
    assert closed == ["b"]
    with pytest.raises(UserError):
        slot.roll_back()


def test_a_model_that_answers_no_more_is_not_gone_back_from():
    slot = Slot(model("a", []))
    second = model("b", [])
    slot.swap(second)
    slot.swap(model("c", []))
    with pytest.raises(UserError, match="b does not answer any more"):
        slot.roll_back(second)
    assert slot.current.name == "c"


def test_a_closed_slot_gives_no_lease():
    slot = Slot(model("a", []))
    slot.close()
    with pytest.raises(RuntimeError, match="closed"):
        slot.lease()


@given(st.lists(st.sampled_from(["lease", "release", "swap", "back"]), max_size=60))
def test_whatever_happens_no_model_in_use_is_closed_and_none_is_forgotten(actions):
    closed, count, leases = [], 1, []
    slot = Slot(model("0", closed))
    for action in actions:
        if action == "lease":
            leases.append(slot.lease())
        elif action == "release" and leases:
            leases.pop(0).release()
        elif action == "swap":
            slot.swap(model(str(count), closed))
            count += 1
        elif action == "back" and slot.previous is not None:
            slot.roll_back()
        in_use = {lease.model.name for lease in leases} | {slot.current.name}
        assert in_use.isdisjoint(closed)
        assert len(set(closed)) == len(closed)
    for lease in leases:
        lease.release()
    slot.close()
    assert sorted(closed, key=int) == [str(number) for number in range(count)]


def test_threads_that_lease_while_models_are_swapped():
    closed, wrong, stop = [], [], threading.Event()
    slot = Slot(model("0", closed))

    def work():
        while not stop.is_set():
            with slot.lease() as used:
                if used.closed or used.name in closed:
                    wrong.append(used.name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 300):
        slot.swap(model(str(number), closed))
        if number % 5 == 0:
            slot.roll_back()
    stop.set()
    for thread in threads:
        thread.join()
    slot.close()
    assert not wrong
    assert len(closed) == len(set(closed)) == 300
    assert np.all(np.diff(sorted(int(name) for name in closed)) == 1)
