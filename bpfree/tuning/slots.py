"""Who runs which trial: exactly as many as the study should have, however many workers there are and die."""

from contextlib import nullcontext
from pathlib import Path

from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from .storage import Place, file_lock, quiet, using

DIVERGED = "diverged"


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for: a diverged one is, a killed one is not."""
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get("reason") == DIVERGED
    return trial.state.is_finished()


def finished(study: Study) -> int:
    """How many trials of the study are finished."""
    return sum(map(is_finished, study.get_trials(deepcopy=False)))


class Slots:
    """The trials that a study still lacks, handed out one at a time to any number of workers.

    A storage in a file (a journal, SQLite) has locks beside it, in the folder `<file>.claims`. Under the
    study's, a worker counts the trials that are finished or run, and takes the next number if one is missing.
    While it runs a trial it holds that trial's lock, which the system frees when the worker dies: the next
    worker finds a trial that is running and free, fails it, and a new one takes its place. The file system
    must have working locks, as local ones and NFS 4 have.

    In a database that is reached by its URL there are no such files, and its workers may share none. There a
    running trial has Optuna's heartbeat, and counts as lost when it stops. Numbers are given by the database,
    one by one; whoever gets one that as many earlier trials precede as the study should have gives it back.
    """

    def __init__(self, study: Study, total: int, place: Place):
        self.study, self.total, self.place, self.path = study, total, place, place.path
        self.storage = place.storage
        self.lock = file_lock(place.path, study.study_name) if place.path else nullcontext()
        self.held = self.heart = None

    def take(self, distributions: dict) -> Trial | None:
        """The next trial, its parameters drawn from `distributions`; None if all are finished or run."""
        with quiet(), using(self.place):
            with self.lock:
                self.fail_lost()
                if self._taken() >= self.total:
                    return None
                trial = self.study.ask(distributions)
                if self.path:
                    self.held = self._claim(trial.number)
                    self.held.acquire()
            self.heart = get_heartbeat_thread(trial._trial_id, self.storage)
            self.heart.start()
            if self._taken(before=trial.number) >= self.total:  # never so where there is a lock
                self.give(trial, state=TrialState.FAIL, reason="surplus")
                return None
            return trial

    def give(
        self, trial: Trial, value: float | None = None, *, state: TrialState, reason: str | None = None
    ) -> None:
        """How a trial ended; a failed one with the reason."""
        with quiet(), using(self.place):
            try:
                if reason is not None:
                    trial.set_user_attr("reason", reason)
                self.study.tell(trial, value, state=state)
            finally:
                self.heart.join()
                if self.held is not None:
                    self.held.release()
                    self._forget(trial.number)

    def fail_lost(self) -> None:
        """Fails the running trials whose workers are dead. They have no `reason`: nobody lived to give it."""
        if not self.path:
            fail_stale_trials(self.study)  # does nothing where there is no heartbeat
            return
        from filelock import Timeout

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            claim = self._claim(trial.number)
            try:
                with claim.acquire(blocking=False):
                    # Its owner may have ended it since; a claim is let go after that.
                    self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            except Timeout:
                continue  # its owner lives
            self._forget(trial.number)

    def _taken(self, before: int | None = None) -> int:
        """Trials that are finished or run; of those with smaller numbers only, if `before` is given."""
        trials = self.study.get_trials(deepcopy=False)
        return sum(
            is_finished(t) or t.state == TrialState.RUNNING
            for t in trials
            if before is None or t.number < before
        )

    def _claim(self, number: int):
        return file_lock(self.path, f"{self.study.study_name}@{number}")

    def _forget(self, number: int) -> None:
        """Removes the file of a finished trial's claim, for which nobody looks any more."""
        Path(self._claim(number).lock_file).unlink(missing_ok=True)
