"""Threads that score many requests at once, the most pressing first.

A thread takes a few pairs of the request that is first in line, scores them, and looks again. So a request that is
pressing overtakes one that was begun, a short request never waits for the end of a long one that is worth less, every
core works while there is work, and what nobody waits for any more is dropped within a few pairs.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from rankdistill.export.runtime.plan import Plan, Step
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.serve.scheduling.job import Answer, DeadlinePassed, Job, QueueFull, fail, settle
from rankdistill.export.serve.scheduling.policy import POLICIES, Urgency

CHUNK = 8  # most tasks that a thread takes at once
FORGETTING = 0.9  # of what a text costs, with each request that ends
LATE = "the deadline passed before the scores were there"
LEAST_S, MOST_S = 0.1, 60.0  # that one who found the queue full is told to wait


class Dispatcher:
    """Scores requests with `threads` threads, in the order of a policy. Any thread may submit. Close it in the end.

    Args:
        threads: that score; rankers' own threads are not used.
        policy: fifo, priority, edf or sjf (`policy`).
        capacity: most requests that wait or are worked on.
        age: seconds: see `policy`.

    Raises:
        ValueError: if threads or capacity is not positive, age is negative, or the policy unknown.
    """

    def __init__(self, threads: int, *, policy: str = "priority", capacity: int = 256, age: float = 1.0) -> None:
        if threads < 1 or capacity < 1 or age < 0:
            raise ValueError(f"threads={threads}, capacity={capacity}, age={age}: positive numbers")
        if policy not in POLICIES:
            raise ValueError(f"policy={policy!r}: one of {', '.join(POLICIES)}")
        self.policy, self.capacity, self.age = POLICIES[policy], capacity, age
        self.text_s = 0.0  # thread seconds of a text, of late; 0 before the first request has ended
        self._texts = 0  # of all requests in flight
        self._jobs: dict[tuple[object, ...], Job] = {}
        self._queue: list[tuple[float, int, Job]] = []
        self._entries = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"score-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait or are worked on; equal ones count once."""
        return len(self._jobs)

    @property
    def backlog_s(self) -> float:
        """Seconds until all that waits now should be done; 0 before the first request has ended."""
        return self._texts * self.text_s / len(self._threads)

    def submit(
        self,
        plan: Plan,
        query: str,
        items: Sequence[str],
        *,
        priority: int = 0,
        worth: float = 0.0,
        deadline: float | None = None,
        begins_slowly: bool = False,
    ) -> Future[Answer]:
        """Line a request up.

        Args:
            plan: what scores it; requests of one plan and equal texts that are in flight are scored once.
            query: text of the query.
            items: texts of the items.
            priority: its class; 0 is the most pressing.
            worth: within its class, 0 to 1.
            deadline: time.monotonic() after which nobody wants the answer.
            begins_slowly: whether what the plan does before its first step is work for the threads that score, in its
                turn; else it is done here and now, so that a request whose scores are known never waits.

        Returns:
            A future: cancel it when nobody waits any more. It fails with DeadlinePassed, or with what scoring raised.

        Raises:
            QueueFull: if `capacity` requests wait.
            RuntimeError: if the dispatcher is closed.
        """
        future: Future[Answer] = Future()
        steps, step = plan.steps(query, items), None
        try:
            step = None if begins_slowly else next(steps)
        except StopIteration as end:
            future.set_result(Answer(end.value, 0.0, 0.0, 0.0, 0, False))
            return future
        now = time.monotonic()
        characters = len(query) * len(items) + sum(map(len, items))
        place = self.policy(Urgency(now, deadline, priority, worth, characters), self.age)
        key = (plan, query, tuple(items))
        with self._changed:
            if self._closed:
                raise RuntimeError("this dispatcher is closed")
            job = self._jobs.get(key)
            if job is None:
                if len(self._jobs) >= self.capacity and not self._drop_abandoned():
                    raise QueueFull(min(MOST_S, max(LEAST_S, self.backlog_s / 2)))
                job = self._jobs[key] = Job(key, place, steps, step, len(items if step is None else step.items), now)
                self._texts += job.texts
                self._line_up(job)
            elif place < job.place:
                job.place = place
                if job.entry >= 0:
                    self._line_up(job)
            job.waiters.append((future, math.inf if deadline is None else deadline))
        return future

    def close(self, timeout: float | None = None) -> bool:
        """Take no more requests, work on those that are there, and end the threads.

        Args:
            timeout: seconds; then what is left fails with RuntimeError. None waits as long as it takes.

        Returns:
            Whether everything was done.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        end = math.inf if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if timeout is None else max(0.0, end - time.monotonic()))
        with self._changed:
            left = list(self._jobs.values())
            for job in left:
                self._remove(job)
            self._changed.notify_all()
        for job in left:
            fail(job, RuntimeError("the dispatcher was closed before this request was done"))
        return not left

    def _line_up(self, job: Job) -> None:
        """Put a job into the queue, at its place; an entry of before counts no more."""
        job.entry = next(self._entries)
        heapq.heappush(self._queue, (job.place, job.entry, job))
        self._changed.notify()

    def _remove(self, job: Job) -> None:
        if self._jobs.pop(job.key, None) is not None:
            self._texts -= job.texts
        job.entry = -1
        if self._closed:
            self._changed.notify_all()  # the last one was waited for

    def _work(self) -> None:
        while (taken := self._wait()) is not None:
            job, tasks = taken
            start, cpu = time.monotonic(), time.thread_time()
            try:
                ended = None
                if job.step is None:
                    ended = self._begin(job)
                elif job.pairs is None:
                    self._tokenise(job, job.step)
                else:
                    for task in tasks:
                        job.pairs.run(task)
                self._put_back(job, time.monotonic() - start, time.thread_time() - cpu)
                if ended is not None:
                    self._finish(job, ended)
            except BaseException as error:  # whatever scoring raised belongs to who asked for it
                with self._changed:
                    self._remove(job)
                fail(job, error)

    def _wait(self) -> tuple[Job, Sequence[list[int]]] | None:
        """Return what this thread is to do next; None if it is to end."""
        while True:
            with self._changed:
                job, dropped = self._first()
                taken = [] if job is None else self._take(job)
                if job is None and not dropped:
                    if self._closed and not self._jobs:
                        return None
                    self._changed.wait()
            for each in dropped:
                fail(each, DeadlinePassed(LATE))
            if job is not None:
                return job, taken

    def _first(self) -> tuple[Job | None, list[Job]]:
        """Return the job that is first in line, and those before it that nobody waits for any more."""
        dropped: list[Job] = []
        while self._queue:
            _, entry, job = self._queue[0]
            if job.entry != entry:
                heapq.heappop(self._queue)
            elif self._abandoned(job):
                self._remove(job)
                dropped.append(job)
            else:
                return job, dropped
        return None, dropped

    def _drop_abandoned(self) -> int:
        """Drop all that nobody waits for any more, wherever it stands; return how many."""
        dropped = [job for job in self._jobs.values() if self._abandoned(job)]
        for job in dropped:
            self._remove(job)
            fail(job, DeadlinePassed(LATE))
        return len(dropped)

    @staticmethod
    def _abandoned(job: Job) -> bool:
        now = time.monotonic()
        return all(future.cancelled() or deadline < now for future, deadline in job.waiters)

    def _take(self, job: Job) -> list[list[int]]:
        """Take a part of a job's step: less and less towards its end, so that all threads end together."""
        job.begun = job.begun or time.monotonic()
        job.running += 1
        if job.pairs is None:
            job.entry = -1  # one thread begins it, or tokenises; the others look for something else
            return []
        left = len(job.pairs.tasks) - job.handed
        count = max(1, min(CHUNK, left // (2 * len(self._threads))))
        tasks = job.pairs.tasks[job.handed : job.handed + count]
        job.handed += count
        if job.handed >= len(job.pairs.tasks):
            job.entry = -1
        return tasks

    def _begin(self, job: Job) -> Float32 | None:
        """Do what a plan does before its first step; return the scores if it has none."""
        try:
            step = next(job.steps)
        except StopIteration as end:
            scores: Float32 = end.value
            return scores
        with self._changed:
            job.step = step
            if self._jobs.get(job.key) is job:
                self._texts += len(step.items) - job.texts
                job.texts = len(step.items)
                self._line_up(job)
        return None

    def _tokenise(self, job: Job, step: Step) -> None:
        pairs = step.ranker.pairs(step.query, step.items)
        with self._changed:
            job.pairs, job.handed = pairs, 0
            if pairs.tasks and job.key in self._jobs:
                self._line_up(job)
                self._changed.notify_all()

    def _put_back(self, job: Job, worked_s: float, cpu_s: float) -> None:
        """Give back a part that was done; who gives back a step's last one takes its next step."""
        with self._changed:
            job.running -= 1
            job.worked_s += worked_s
            job.cpu_s += cpu_s
            pairs = job.pairs
            if pairs is None or job.running or job.handed < len(pairs.tasks) or self._jobs.get(job.key) is not job:
                return
            job.scored += len(pairs.scores)
        try:
            job.step = job.steps.send(pairs.scores)
        except StopIteration as end:
            self._finish(job, end.value)
            return
        with self._changed:
            if self._jobs.get(job.key) is job:
                job.pairs = None
                self._line_up(job)

    def _finish(self, job: Job, scores: Float32) -> None:
        now = time.monotonic()
        with self._changed:
            self._remove(job)
            text_s = job.worked_s / job.texts if job.texts else self.text_s
            self.text_s = FORGETTING * self.text_s + (1 - FORGETTING) * text_s if self.text_s else text_s
            self._changed.notify_all()
        for number, (future, deadline) in enumerate(job.waiters):
            if deadline < now:
                settle(future, DeadlinePassed(LATE))
            else:
                waited_s = (job.begun or now) - job.arrived
                settle(future, Answer(scores, waited_s, job.worked_s, job.cpu_s, job.scored, number > 0))
