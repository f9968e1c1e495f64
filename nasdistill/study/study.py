"""The Optuna study: storage, asking, claims, leases, and the attributes of trials.

The storage holds what happened: one Optuna trial per architecture that was proposed, written whole
in one transaction, so that no half-sampled trial can exist. What the sampler is told is made from
that anew for every ask (`view.sampler_view`).
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasdistill.common.files import write_whole
from nasdistill.common.locks import alone
from nasdistill.common.shared_files import FilesAtURL, SharedFiles
from nasdistill.common.types import without_password
from nasdistill.recipe import Recipe, from_stored
from nasdistill.results import (
    COUNTED,
    Candidate,
    RungScore,
    keys,
    open_storage,
    storage_errors,
    storage_url,
)
from nasdistill.results.keys import Key
from nasdistill.results.servers import Patience
from nasdistill.results.storage import storage_path
from nasdistill.space import SearchSpace
from nasdistill.study.claims import SETTLE_SECONDS, claimed, finals_held, finals_lease
from nasdistill.study.history import History
from nasdistill.study.leases import (
    TrialEnded,
    Watch,
    deaths_of,
    ended_elsewhere,
    given_back,
    lease_in,
    lease_of,
    renewing,
)
from nasdistill.study.place import (
    check_same_recipe,
    create_folder,
    identity_of,
    is_of_original,
    is_study,
    locate_storage,
    note_storage,
    open_in,
)
from nasdistill.study.resolving import settle_space
from nasdistill.study.sampling import Proposal, Proposer
from nasdistill.study.sharing import give_recipe, reach_files

MOST_DEATHS = 5
"""How often a trial may take its process down at one rung before it fails."""

Value = TypeVar("Value")


class Study:
    """One study on disk.

    Args:
        folder: `studies/<name>`.
        recipe: The resolved recipe.
        space: The search space that the recipe names.
        joining: Whether its storage may be named otherwise than the folder does: as a proxy's.

    Attributes:
        space: The variant of it that is searched, once that is settled; see `resolving`.
        url: Of its Optuna storage, password and all.
        files: What other hosts have made, and are given.
        worker: This process's name in leases and claims.
        created: Whether this process made the study, which was not there before.
        patience: With a storage that is away.
        news: Told in words that the storage is away.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, space: SearchSpace, *, joining: bool = False
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = recipe.storage if joining else locate_storage(folder, recipe.storage)
        self.folder = folder
        self.recipe = recipe.model_copy(update={"storage": storage})
        self.space = space
        self.worker = uuid.uuid4().hex[:12]
        self.created = False
        self.url = storage_url(folder, storage)
        place = reach_files(self.recipe)
        self._storage = open_storage(self.url, "write" if is_study(folder) else "create")
        self.patience = Patience(self.url)
        self._study = open_in(self._storage, folder, self.url, recipe.minimize)
        if storage_path(self.url) is None:
            self.patience.over(self._storage)
        self.patience.tell = self._wait
        self.news: Callable[[str], None] = lambda text: None
        self._identity = identity_of(self.url, self._study.study_name)
        self._watch = Watch(self.worker)
        self._history = History(self.recipe.minimize)
        self.files = SharedFiles()
        if place is not None:
            self.files = FilesAtURL(place, folder, self._study.study_name, self._claim)

    def _claim(self, name: str, wait: bool) -> AbstractContextManager[bool]:
        return claimed(self, keys.SHARED_LEASE.of(name), wait=wait)

    def _wait(self, text: str) -> None:
        self._watch.begin_anew()
        self.news(text)

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        root: Path,
        command: str,
        *,
        moving: bool = False,
        joining: bool = False,
    ) -> Study:
        """Opens the study that a recipe names, creating it where there is none.

        Args:
            recipe: The resolved recipe.
            root: Folder of studies.
            command: The command line, for the report of a new study.
            moving: Whether the recipe may name files at new places, until `store_recipe` says that
                they are the same.
            joining: Whether the study is there, and its recipe stays as it is stored.

        Raises:
            UserError: If the study exists and was made with another recipe.
        """
        folder = root / recipe.study_name()
        space, new = SearchSpace.load(recipe.space), not folder.exists()
        create_folder(folder)
        with alone(folder / "open.lock"):  # Optuna creates its tables without a lock.
            try:
                with storage_errors(storage_url(folder, recipe.storage)):
                    return cls._open(folder, recipe, space, command, (moving, joining))
            except BaseException:
                if new and not is_study(folder):  # nobody else has made it a study
                    shutil.rmtree(folder, ignore_errors=True)
                raise

    @classmethod
    def _open(
        cls, folder: Path, recipe: Recipe, space: SearchSpace, command: str, how: tuple[bool, bool]
    ) -> Study:
        moving, joining = how
        study = cls(folder, recipe.resolved(space.family, space.begins), space, joining=joining)
        recipe = study.recipe
        stored = study.read(keys.RECIPE)
        if stored is None:
            study.write(keys.COMMAND, without_password(command))
            study.write(keys.CREATED, time.time())
            study.created = True
        else:
            check_same_recipe(folder.name, from_stored(stored), recipe, moving=moving)
        settle_space(study)
        if not moving and not joining:
            study.store_recipe()
        return study

    def store_recipe(self) -> None:
        """Writes the recipe, whose files are those of old, to storage and folder."""
        self.write(keys.RECIPE, self.recipe.stored())
        if self.recipe.storage is not None:  # first: recipe.yaml makes the folder a study
            note_storage(self.folder, self.recipe.storage, self._study.study_name)
        write_whole(self.folder / "recipe.yaml", self.recipe.to_yaml())
        give_recipe(self.files, self.folder, self.recipe)

    def discard(self) -> None:
        """Removes the study from its storage, and its folder, by its URL, too."""
        with suppress(KeyError):
            optuna.delete_study(study_name=self._study.study_name, storage=self._storage)
        self.files.remove(self.folder)

    # -- attributes of the study -----------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Any]:
        """All attributes of the study, by stored name; see `results.keys`."""
        return self._study.user_attrs

    def read(self, key: Key[Value], default: Value | None = None) -> Value | None:
        """Reads one attribute of the study; `default` where it was never written."""
        value: Value | None = self.attributes.get(key.name, default)
        return value

    def require(self, key: Key[Value]) -> Value:
        """Reads one attribute of the study that must have been written before."""
        value: Value = self.attributes[key.name]
        return value

    def has(self, key: Key[Any]) -> bool:
        """Whether an attribute of the study was written, if only as null."""
        return key.name in self.attributes

    def write(self, key: Key[Value], value: Value) -> None:
        """Writes one attribute of the study; `value` must be JSON."""
        self._study.set_user_attr(key.name, value)

    def get_or_measure(self, key: Key[Value], measure: Callable[[], Value]) -> Value:
        """Reads an attribute, or measures and stores it: what was measured once is kept."""
        if not self.has(key):
            with alone(self.folder / "once.lock"), self.files.claim("once", wait=True):
                if not self.has(key):
                    self.write(key, measure())
        return self.require(key)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Adds wall-clock seconds to a stage; each worker keeps its own sum."""
        key = keys.SECONDS.of(stage, self.worker)
        self.write(key, (self.read(key) or 0.0) + seconds)

    # -- trials ----------------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """All trials of the storage, by number."""
        return self._study.get_trials(deepcopy=False)

    def _up_to_date(self) -> History:
        self._history.update(self.trials())
        return self._history

    def candidates(self) -> list[Candidate]:
        """All trials as candidates."""
        return self._up_to_date().known()

    def candidate(self, number: int) -> Candidate:
        """One trial as a candidate."""
        candidate = self._up_to_date().candidates[number]
        assert candidate is not None
        return candidate

    def note(self, number: int, key: Key[Value], value: Value) -> None:
        """Writes one attribute of a running trial.

        Raises:
            TrialEnded: If another worker has ended it.
        """
        with ended_elsewhere(number):
            self._storage.set_trial_user_attr(self._id(number), key.name, value)

    def record_rung(self, number: int, score: RungScore) -> None:
        """Writes a rung's score; the last write counts, so that it is there whole or not at all."""
        self.note(number, keys.SCORE.of(score.rung), score.score)
        self.note(number, keys.RUNG.of(score.rung), asdict(score))

    def record_passed(self, number: int, rungs: int) -> None:
        """Notes that a trial was judged at its first `rungs` rungs, and goes on."""
        self.note(number, keys.PASSED, rungs)

    def complete(self, number: int, accuracy: float, costs: Sequence[float]) -> None:
        """Ends a trial that climbed every rung."""
        self.note(number, keys.TRIAL_STATE, "complete")
        self._end(number, TrialState.COMPLETE, [accuracy, *costs])

    def stop(self, number: int, rung: int, reason: str, saved: int) -> None:
        """Ends a trial that was stopped at a rung, which saved some training examples."""
        self.note(number, keys.STOPPED_AT, rung)
        self.note(number, keys.EXAMPLES_SAVED, saved)
        self.note(number, keys.REASON, reason)
        self.note(number, keys.TRIAL_STATE, "stopped")
        self._end(number, TrialState.PRUNED, None)

    def end(self, number: int, reason: str, state: str = "failed") -> None:
        """Ends a trial that gave no score; `state` may be `rejected` or `withdrawn` as well."""
        self.note(number, keys.REASON, reason)
        self.note(number, keys.TRIAL_STATE, state)
        self._end(number, TrialState.PRUNED if state == "rejected" else TrialState.FAIL, None)

    def _end(self, number: int, state: TrialState, values: Sequence[float] | None) -> None:
        with ended_elsewhere(number):
            self._storage.set_trial_state_values(self._id(number), state, values)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)

    # -- asking ----------------------------------------------------------------------------------

    def proposer(self) -> Proposer:
        """Proposes architectures for the study as it stands now."""
        return Proposer(self._up_to_date(), self._study.directions, self.recipe, self.space)

    # -- claims and leases -----------------------------------------------------------------------

    def reject(
        self, proposal: Proposal, figures: Mapping[str, float], excess: Mapping[str, float]
    ) -> None:
        """Stores a proposal that breaks a limit.

        Args:
            proposal: What was asked for.
            figures: Known costs by name.
            excess: How far over each broken limit, as a share of it; above zero.
        """
        worst = ", ".join(f"{name} {share:.0%} over its limit" for name, share in excess.items())
        attributes = {**figures, keys.TRIAL_STATE.name: "rejected", keys.REASON.name: worst}
        self._study.add_trial(proposal.as_trial(TrialState.PRUNED, attributes, excess))

    def claim(self, proposal: Proposal, figures: Mapping[str, float]) -> int | None:
        """Takes a slot for a proposal: write, read again, the lowest number wins.

        Returns:
            The trial's number, or None if another worker has the architecture or the last slot.
        """
        token = uuid.uuid4().hex
        attributes = {**figures, keys.TRIAL_STATE.name: "running", keys.TOKEN.name: token}
        attributes[keys.LEASE.name] = self._new_lease(0)
        self._study.add_trial(proposal.as_trial(TrialState.RUNNING, attributes))
        trials = self.trials()
        claimed = next(t for t in reversed(trials) if t.user_attrs.get(keys.TOKEN.name) == token)
        earlier = [
            trial.user_attrs.get(keys.FINGERPRINT.name)
            for trial in trials[: claimed.number]
            if trial.user_attrs.get(keys.TRIAL_STATE.name) in COUNTED
        ]
        if proposal.architecture.fingerprint in earlier:
            self.end(claimed.number, "another worker has it", state="withdrawn")
        elif len(earlier) >= self.recipe.trials:
            self.end(claimed.number, "the study's total is reached", state="withdrawn")
        else:
            return claimed.number
        return None

    def take_up(self) -> int | None:
        """Takes up a trial whose worker is gone: its lease has ended, or its process is dead.

        One that takes its process down again and again fails.
        """
        for trial in self.trials():
            if trial.state != TrialState.RUNNING:
                continue
            if self._abandoned(lease_in(trial)) and self._take(trial):
                state = trial.user_attrs[keys.TRIAL_STATE.name]
                if state == "withdrawn":  # its worker died while withdrawing it
                    self._end(trial.number, TrialState.FAIL, None)
                elif self._deaths(trial) >= MOST_DEATHS:
                    self.end(trial.number, f"its process died {MOST_DEATHS} times at one rung")
                else:
                    return trial.number
        return None

    def _deaths(self, trial: FrozenTrial) -> int:
        """How often a trial's process died since its last rung, this time included."""
        deaths = deaths_of(trial, self.worker)
        if deaths["count"]:
            self.note(trial.number, keys.DEATHS, deaths)
        return deaths["count"]

    def has_abandoned(self) -> bool:
        """Whether a trial is there to be taken up."""
        running = (lease_in(t) for t in self.trials() if t.state == TrialState.RUNNING)
        return any([self._abandoned(lease) for lease in running])  # each is looked at

    def _new_lease(self, generation: int) -> dict[str, Any]:
        return {**lease_of(self.worker, generation), "study": self._identity}

    def _abandoned(self, lease: Mapping[str, Any]) -> bool:
        return is_of_original(lease, self._identity) or self._watch.abandoned(lease)

    def _take(self, trial: FrozenTrial) -> bool:
        generation = lease_in(trial)["generation"] + 1
        claim = self._new_lease(generation)
        try:
            self.note(trial.number, keys.CLAIM.of(generation, self.worker), claim)
            time.sleep(SETTLE_SECONDS)
            now = self.trials()[trial.number]
            claims = keys.CLAIM.of(generation, "{}").among(now.user_attrs).values()
            # Who claims and dies must not keep the others out.
            alive = [c for c in claims if c["worker"] == self.worker or not self._abandoned(c)]
            first = min(alive, key=lambda claim: (claim["until"], claim["worker"]))
            if lease_in(now)["generation"] >= generation or first["worker"] != self.worker:
                return False
            self.note(trial.number, keys.LEASE, self._new_lease(generation))
        except TrialEnded:
            return False
        return True

    def others_running(self) -> bool:
        """Whether a trial is under way, or waits to be taken up."""
        return any(trial.state == TrialState.RUNNING for trial in self.trials())

    @contextmanager
    def holding(self, number: int) -> Iterator[None]:
        """Renews a running trial's lease in the background."""
        generation = lease_in(self.trials()[number])["generation"]

        def renew() -> None:
            if lease_in(self._storage.get_trial(self._id(number)))["worker"] == self.worker:
                self.note(number, keys.LEASE, self._new_lease(generation))

        def give_back() -> None:
            with suppress(TrialEnded):
                self.note(number, keys.LEASE, given_back(self._new_lease(generation)))

        try:
            with renewing(renew, give_back):
                yield
        except BaseException:  # This process may live on, in a notebook.
            give_back()
            raise

    def finals_lease(self) -> AbstractContextManager[bool]:
        """Gives True to the one process that may do the finals."""
        return finals_lease(self)

    def finals_held(self) -> bool:
        """Whether a living process makes the finals."""
        return finals_held(self)
