"""A new bundle's way in: checked, loaded, warmed, tried on live requests, swapped in, watched, and back if it fails."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rankdistill.export.errors import BundleError, UserError
from rankdistill.export.serve.models.bundle_sources import Source
from rankdistill.export.serve.models.model_slot import Model, Slot
from rankdistill.export.serve.models.served_bundle import Served
from rankdistill.export.serve.models.shadow_request import Comparison
from rankdistill.export.serve.models.trial import Probation, Trial, TrialBudget, TrialVerdict
from rankdistill.export.serve.models.verify_process import check
from rankdistill.export.serve.scheduling.dispatcher import Dispatcher
from rankdistill.export.serve.scheduling.job import Answer
from rankdistill.export.serve.worker_commands import ROLL_BACK, Commands

MOST_OPEN = 2  # trial requests at a time: they must not fill the queue
TICK_S = 0.05
COMMAND_S = 0.2  # between two looks for a command
PATIENCE_AT_END_S = 1.0
MOST_OFFERS = 100  # that are remembered
logger = logging.getLogger("ranker")


@dataclass(frozen=True)
class Offer:
    """What became of a bundle that was offered.

    Attributes:
        bundle: its folder.
        model: its name; empty if it was never loaded.
        accepted: whether it was swapped in.
        reason: in words.
    """

    bundle: str
    model: str
    accepted: bool
    reason: str


class Reload:
    """Lets bundles in, one after the other.

    Args:
        slot: holds the model that answers.
        dispatcher: scores trial requests.
        load: makes a model of a bundle's folder; raises UserError.
        warm: prepares a model for the most frequent requests.
        budget: of a trial.
        share: of live requests that a candidate is tried on, 0 to 1.
        key: file of the public key that must have signed a bundle; None to ask for no signature.
        seed: of the choice of those requests.
    """

    def __init__(
        self,
        slot: Slot[Served],
        dispatcher: Dispatcher,
        load: Callable[[Path], Model[Served]],
        warm: Callable[[Model[Served]], None],
        budget: TrialBudget,
        share: float,
        key: Path | None = None,
        seed: int | None = None,
    ) -> None:
        self.slot, self.dispatcher, self.budget, self.share = slot, dispatcher, budget, share
        self.offers: deque[Offer] = deque(maxlen=MOST_OFFERS)  # the newest last
        self.swaps = self.rollbacks = 0
        self._load, self._warm, self._key = load, warm, key
        self._rng = random.Random(seed)
        self._candidate: tuple[Model[Served], Trial] | None = None
        self._probation: tuple[Model[Served], Probation] | None = None
        self._open = threading.BoundedSemaphore(MOST_OPEN)
        self._superseded = threading.Event()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._offer_thread: threading.Thread | None = None
        self._source: Source | None = None
        self._commands: Commands | None = None
        self._beginning = threading.Lock()
        self._offering = threading.Lock()

    @property
    def on_trial(self) -> str | None:
        """The model that is on trial, and how far that is; None if there is none."""
        candidate = self._candidate
        if candidate is None:
            return None
        model, trial = candidate
        return f"{model.name}: {trial.seen} of {self.budget.requests} requests"

    def offer(self, folder: Path) -> Offer:
        """Let a bundle in, if it holds all it must; waits until that is known, and for offers before it.

        Args:
            folder: of the bundle.
        """
        with self._offering:
            offer = self._offer(folder)
            self.offers.append(offer)
            if self._source is not None:
                models = [model for model in (self.slot.current, self.slot.previous) if model is not None]
                self._source.keep([model.content.ranker.manifest.folder for model in models])
        tell = logger.info if offer.accepted else logger.warning
        tell("%s %s: %s", folder, "is swapped in" if offer.accepted else "is not let in", offer.reason)
        return offer

    def roll_back(self, reason: str = "on command", of: Model[Served] | None = None) -> str:
        """Let the model before the last one answer again.

        Args:
            reason: in words.
            of: the model that is to go; None for whichever answers.

        Returns:
            The name of the model that answers now.

        Raises:
            UserError: if there was none before, or another one answers already.
        """
        gone = self.slot.roll_back(of)
        self._probation = None
        self.rollbacks += 1
        name = self.slot.current.name
        folder = gone.content.ranker.manifest.folder
        self.offers.append(Offer(str(folder), gone.name, False, f"swapped out for {name}: {reason}"))
        self._tell_current()
        logger.warning("%s is swapped out for %s: %s", gone.name, name, reason)
        return name

    def answered(self, model: Model[Served], query: str, items: Sequence[str], answer: Answer) -> None:
        """Learn of a request that a model answered: some are put to the candidate too."""
        probation = self._probation
        if probation is not None and probation[0] is model and answer.scored and not answer.shared:
            self._judge(model, probation[1].answered(answer.cpu_s, answer.scored))
        candidate = self._candidate
        if candidate is not None and self._rng.random() < self.share and self._open.acquire(blocking=False):
            comparison = Comparison(candidate[1], self._open.release)
            comparison.begin(self.dispatcher, model, candidate[0], query, items)

    def failed(self, model: Model[Served], error: BaseException) -> None:
        """Learn of a request that a model could not answer for a fault of its own."""
        probation = self._probation
        if probation is not None and probation[0] is model:
            self._judge(model, probation[1].failed(error))

    def watch(self, source: Source | None, interval_s: float, commands: Commands | None = None) -> None:
        """Look for new bundles and commands, in threads of its own, until `close`.

        Args:
            source: of new bundles; None for none.
            interval_s: between two looks at it.
            commands: of an operator; None for none.
        """
        self._source, self._commands = source, commands
        if source is not None:
            self._begin_thread("watch", self._watch, source, interval_s)
        if commands is not None:
            self._begin_thread("commands", self._obey, commands)

    def close(self) -> None:
        """Look for nothing any more; a candidate on trial is let go."""
        self._stop.set()
        self._superseded.set()
        for thread in self._threads:
            thread.join(PATIENCE_AT_END_S)  # one that an address keeps waiting ends with the process
        if self._source is not None:
            self._source.close()

    def _tell_current(self) -> None:
        if self._commands is not None:
            self._commands.keep_current(self.slot.current.content.ranker.manifest)

    def _begin_thread(self, name: str, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self, source: Source, interval_s: float) -> None:
        while not self._stop.wait(interval_s):
            with self._mistakes_told():
                folder = source.look()
                if folder is not None:
                    self._begin(folder)

    def _obey(self, commands: Commands) -> None:
        while not self._stop.wait(COMMAND_S):
            for what, bundle in commands.next():
                with self._mistakes_told():
                    if what == ROLL_BACK:
                        self.roll_back()
                    else:
                        self._begin(Path(bundle).resolve())  # a link may lead elsewhere later

    @contextlib.contextmanager
    def _mistakes_told(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self.offers.append(Offer("", "", False, str(error)))
            logger.warning("%s", error)
        except Exception:
            logger.exception("looking for a new bundle failed")

    def _begin(self, folder: Path) -> None:
        """Offer a bundle in a thread of its own; one that is on trial is old already."""
        with self._beginning:
            self._superseded.set()
            if self._offer_thread is not None:
                self._offer_thread.join()
            if self._stop.is_set():
                return
            self._superseded.clear()
            self._offer_thread = threading.Thread(target=self.offer, args=(folder,), name="offer", daemon=True)
            self._offer_thread.start()

    def _offer(self, folder: Path) -> Offer:
        model: Model[Served] | None = None
        try:
            verified = check(folder, self._key, self._stop)
            model = self._load(folder)
            if model.content.ranker.manifest.digest != verified:
                raise BundleError(f"{folder} was replaced while it was checked")
            if model.name == self.slot.current.name:
                model.retire()
                return Offer(str(folder), model.name, False, f"{model.name} answers already")
            self._warm(model)
            verdict, text_s = self._try(model)
        except UserError as error:
            verdict = TrialVerdict(False, str(error))
        except Exception as error:  # of a library, over a bundle that passed its checks
            logger.exception("offering %s failed", folder)
            verdict = TrialVerdict(False, f"{type(error).__name__}: {error}")
        if model is None:
            return Offer(str(folder), "", False, verdict.reason)
        if verdict.accepted:
            if model.content.governor is not None:
                text_s = math.nan  # a level's cost tells nothing of another's
            self._probation = (model, Probation(self.budget, text_s))
            self.slot.swap(model)
            self.swaps += 1
            self._tell_current()
        else:
            model.retire()
        return Offer(str(folder), model.name, verdict.accepted, verdict.reason)

    def _try(self, model: Model[Served]) -> tuple[TrialVerdict, float]:
        """Return the verdict of a trial, and the thread seconds of a text by the model that answers."""
        if not self.share:
            return TrialVerdict(True, "its checks hold; no trial is asked for"), math.nan
        trial = Trial(self.budget, time.monotonic())
        self._candidate = (model, trial)
        try:
            while (verdict := trial.verdict(time.monotonic())) is None:
                if self._superseded.wait(TICK_S):
                    return TrialVerdict(False, "a newer one came, or the service ends"), math.nan
            return verdict, trial.text_s
        finally:
            self._candidate = None

    def _judge(self, model: Model[Served], verdict: TrialVerdict | None) -> None:
        if verdict is None:
            return
        self._probation = None
        if not verdict.accepted:
            with contextlib.suppress(UserError):  # a newer one was swapped in meanwhile
                self.roll_back(verdict.reason, model)
