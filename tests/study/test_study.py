from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nasdistill.recipe import load_recipe
from nasdistill.results import RungScore, keys
from nasdistill.space import SearchSpace
from nasdistill.study import Proposal, Proposer, Study, TrialEnded, leases, view
from nasdistill.study import history as history_module
from nasdistill.study.history import History
from nasdistill.study.study import MOST_DEATHS
from nasdistill.study.view import GENERATION, sampler_view

COSTS = {"params": 1000, "macs": 1000, "bytes": 4000}


def rung(index: int, accuracy: float) -> RungScore:
    return RungScore(index, 100 * 3**index, accuracy, accuracy - 0.02, accuracy + 0.02, 0.5, 1.0)


def opened(**options: Any) -> Study:
    recipe = load_recipe("recipe.yaml", options)
    return Study.open(recipe, Path("studies"), "nasdistill search")


def proposed(study: Study, attempt: int) -> Proposal:
    return study.proposer().propose(attempt)


def claimed(study: Study, params: int = 1000) -> int:
    seen = {candidate.fingerprint for candidate in study.candidates()}
    proposals = (proposed(study, attempt) for attempt in range(200))
    fresh = next(p for p in proposals if p.architecture.fingerprint not in seen)
    number = study.claim(fresh, {**COSTS, "params": params})
    assert number is not None
    return number


def test_asking_again_after_a_restart_gives_the_same_architecture(here: Path) -> None:
    first = proposed(opened(), 0)
    second = proposed(opened(), 0)
    assert first.architecture == second.architecture and first.params == second.params
    assert proposed(opened(), 1).architecture != first.architecture
    claimed(opened())
    assert proposed(opened(), 0).architecture != first.architecture


def test_a_trial_is_written_whole_with_its_parameters(here: Path) -> None:
    study = opened()
    proposal = proposed(study, 0)
    number = study.claim(proposal, COSTS)
    (trial,) = study.trials()
    assert trial.number == number and trial.state == TrialState.RUNNING
    assert trial.params == proposal.params
    assert trial.user_attrs["fingerprint"] == proposal.architecture.fingerprint


def test_an_architecture_is_claimed_once(here: Path) -> None:
    one, two = opened(), opened()
    proposal = proposed(one, 0)
    assert one.claim(proposal, COSTS) == 0
    assert two.claim(proposal, COSTS) is None
    assert [c.number for c in one.candidates()] == [0]


def test_a_space_s_own_designs_come_first(here: Path) -> None:
    designs = [{"type": "one", "widths": [24]}, {"type": "two", "widths": [32, 16]}]
    with Path("tiny.yaml").open("a") as file:
        file.write("start:\n")
        for layers in designs:
            values = {"activation": "gelu", "dropout": 0.1, "layers": layers}
            file.write(f"  - {json.dumps(values)}\n")
    one, two = opened(), opened()
    first, same = proposed(one, 0), proposed(two, 0)
    assert first.architecture == same.architecture
    assert first.architecture.values["layers"] == designs[0]
    one.reject(first, COSTS, {"params": 1.0})
    assert two.claim(proposed(two, 1), COSTS) is not None, "one that was rejected has had its turn"
    assert [c.architecture["values"]["layers"] for c in one.candidates()] == designs
    after = proposed(one, 0)
    assert after.architecture.values["layers"] not in designs


def test_the_total_is_kept(here: Path) -> None:
    study = opened(trials=2)
    numbers = [study.claim(proposed(study, attempt), COSTS) for attempt in (0, 1, 2)]
    assert numbers == [0, 1, None]


def test_a_living_worker_keeps_its_trial_and_a_dead_one_loses_it(here: Path) -> None:
    study = opened()
    number = claimed(study)
    other = opened()
    assert other.take_up() is None
    script = "from test_study import *\nstudy = opened()\nclaimed(study)\nos._exit(0)\n"
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert other.take_up() == number + 1
    assert other.take_up() == number + 1, "its own trial may be taken up by a worker again"
    assert study.take_up() == number


def test_a_trial_that_takes_its_process_down_again_and_again_fails(here: Path) -> None:
    study = opened()
    number = claimed(study)

    def die() -> None:
        lease = study.trials()[number].user_attrs["lease"]
        study.note(number, keys.LEASE, {**lease, "worker": "0" * 12, "pid": 2**22 + 1})

    for _ in range(MOST_DEATHS - 1):
        die()
        assert study.take_up() == number
    study.record_rung(number, rung(0, 0.7))  # it gets on, so the count begins anew
    for _ in range(MOST_DEATHS - 1):
        die()
        assert study.take_up() == number
    die()
    assert study.take_up() is None
    candidate = study.candidate(number)
    assert candidate.state == "failed" and "died 5 times at one rung" in str(candidate.reason)


def test_a_lease_that_is_not_renewed_is_taken_up_by_one_worker(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = opened(), opened()
    number = claimed(study)
    lease = study.trials()[number].user_attrs["lease"]
    study.note(number, keys.LEASE, {**lease, "host": "elsewhere", "until": 0.0})
    assert other.take_up() is None, "its clock may be wrong: it is given time to renew"
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.0)
    study.note(number, keys.LEASE, lease)
    assert other.take_up() is None, "the machine may have slept, the process lives"
    study.note(number, keys.LEASE, {**lease, "host": "elsewhere"})
    assert other.take_up() == number
    assert opened().take_up() is None


def test_finals_of_a_host_that_is_gone_are_made_by_another(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = opened(), opened()
    lease = {**leases.lease_of("0" * 12, 0), "host": "elsewhere"}
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.5)
    study.write(keys.FINALS_LEASE, lease)
    with other.finals_lease() as mine:
        assert mine
    monkeypatch.setattr(leases, "LEASE_SECONDS", 30.0)  # long before it ends it is renewed
    study.write(keys.FINALS_LEASE, lease)
    renew = threading.Timer(0.5, lambda: study.write(keys.FINALS_LEASE, {**lease, "until": 1.0}))
    renew.start()
    with other.finals_lease() as mine:
        assert not mine, "it was renewed, so somebody lives"
    renew.join()


def test_who_claims_and_dies_keeps_nobody_out(here: Path) -> None:
    study, other = opened(), opened()
    number = claimed(study)
    lease = study.trials()[number].user_attrs["lease"]
    dead = {**lease, "worker": "0" * 12, "pid": 2**22 + 1, "until": lease["until"] - 50}
    study.note(number, keys.LEASE, dead)
    study.note(number, keys.CLAIM.of(1, "0" * 12), dead)
    assert other.take_up() == number


def test_a_trial_cut_off_while_it_was_withdrawn_is_ended(here: Path) -> None:
    study = opened()
    number = claimed(study)
    study.note(number, keys.TRIAL_STATE, "withdrawn")
    assert study.take_up() is None
    assert study.trials()[number].state == TrialState.FAIL


def test_a_trial_that_another_worker_ended_is_left_alone(here: Path) -> None:
    study, other = opened(), opened()
    number = claimed(study)
    other.end(number, "gone")
    with pytest.raises(TrialEnded):
        study.record_rung(number, rung(0, 0.7))
    with pytest.raises(TrialEnded):
        study.complete(number, 0.7, [1000.0])


def test_an_interruption_just_after_a_trial_s_end_is_not_hidden(here: Path) -> None:
    study = opened()
    number = claimed(study)
    with pytest.raises(KeyboardInterrupt), study.holding(number):
        study.complete(number, 0.7, [1000.0])
        raise KeyboardInterrupt


def test_what_is_measured_once_is_measured_by_one_worker(here: Path) -> None:
    workers = [opened() for _ in range(4)]
    made: list[int] = []

    def make() -> int:
        time.sleep(0.05)
        made.append(len(made))
        return made[-1]

    with ThreadPoolExecutor(4) as pool:
        values = list(
            pool.map(lambda study: study.get_or_measure(keys.FINAL_EXAMPLES, make), workers)
        )
    assert values == [0, 0, 0, 0] and made == [0]


def test_what_the_sampler_is_told(here: Path) -> None:
    study = opened()
    whole = claimed(study, 3000)
    study.record_rung(whole, rung(0, 0.70))
    study.record_rung(whole, rung(1, 0.90))
    study.complete(whole, 0.90, [3000])
    stopped = claimed(study, 2000)
    study.record_rung(stopped, rung(0, 0.60))
    study.stop(stopped, 0, "weak", 500)
    failed = claimed(study)
    study.end(failed, "out of memory")
    for attempt in range(3):
        study.reject(proposed(study, 50 + attempt), {**COSTS, "params": 99_000}, {"params": 8.9})
    states = [trial.state for trial in study.trials()]
    assert states[:3] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    history = History(study.recipe.minimize)
    history.update(study.trials())
    trials = sampler_view(history, study.recipe).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    # The stopped one's score is raised by what the complete one gained after the same rung.
    assert [trial.values for trial in trials[:2]] == [[0.90, 3000.0], [pytest.approx(0.80), 2000.0]]
    # As many rejected ones as scored ones, with the constraint that they break.
    assert [trial.constraints for trial in trials[2:]] == [{"params": 8.9}] * 2
    assert trials[2].values == [0.0, 99_000.0]


def made_up(count: int, costs: int) -> list[optuna.trial.FrozenTrial]:
    """Trials of a study as its storage holds them: half stopped, one in four rejected."""
    space, trials = SearchSpace.load("tiny.yaml"), []
    for number in range(count):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(number)).ask()
        architecture = space.sample(trial)
        score = 0.5 + (number * 37 % 100) / 250
        attributes = {"architecture": architecture.to_json(), "fingerprint": str(number)}
        attributes |= {"params": 1000 + number * 53 % 997, "macs": 1000 + number * 91 % 997}
        scored = {**asdict(rung(0, score)), "peers": []}
        state, values = TrialState.PRUNED, None
        if number % 4 == 3:
            attributes |= {"state": "rejected"}
        elif number % 2:
            attributes |= {"state": "stopped", "rung_0": scored}
        else:
            attributes |= {"state": "complete", "rung_0": scored}
            state, values = TrialState.COMPLETE, [score, *[1.0] * costs]
        trials.append(
            optuna.trial.create_trial(
                state=state,
                values=values,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=attributes,
                system_attrs={GENERATION: number // 12},
                constraints={"params": 0.5} if number % 4 == 3 else None,
            )
        )
        trials[-1].number = number
    return trials


def test_of_thousands_the_sampler_sees_the_best_and_the_latest(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "MOST_SCORED", 30)
    monkeypatch.setattr(view, "MOST_REJECTED", 5)
    recipe = load_recipe("recipe.yaml", {"sampler": "nsga2"})
    history = History(recipe.minimize)
    history.update(made_up(200, 1))
    history_view = sampler_view(history, recipe)
    scored, rejected = history_view.trials[:30], history_view.trials[30:]
    assert [trial.values[0] for trial in rejected] == [0.0] * 5
    numbers = [trial.number for trial in scored]
    with_score = [number for number in range(200) if number % 4 != 3]
    assert numbers[10:] == with_score[-20:]
    best = max(history.scored().values[:, 0])
    assert max(trial.values[0] for trial in scored[:10]) == best
    generations = [trial.system_attrs[GENERATION] for trial in scored]
    assert generations[:10] == [0] * 10 and generations[-1] == 198 // 12 - history_view.generations
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    proposer = Proposer(history, directions, recipe, SearchSpace.load("tiny.yaml"))
    proposal = proposer.propose(0)
    assert proposal.system_attrs[GENERATION] in (16, 17), "it goes on with the study's own count"


def test_a_trial_that_has_ended_is_read_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opened()
    first = claimed(study)
    study.record_rung(first, rung(0, 0.7))
    study.complete(first, 0.7, [1000.0])
    second, read = claimed(study), list[int]()
    study.candidates()
    original = history_module.candidate_of
    monkeypatch.setattr(
        history_module, "candidate_of", lambda trial: read.append(trial.number) or original(trial)
    )
    other = opened()
    assert [c.state for c in study.candidates()] == ["complete", "running"] and read == [second]
    other.record_rung(second, rung(0, 0.6))
    assert study.candidate(second).score == 0.6


def test_a_qmc_sampler_goes_on_in_its_sequence(here: Path) -> None:
    study = opened(sampler="qmc", trials=40)
    number = claimed(study)
    study.record_rung(number, rung(0, 0.7))
    study.complete(number, 0.7, [1000.0])
    points = {str(proposed(study, attempt).params) for attempt in range(12)}
    assert len(points) > 6, "the first point of the sequence, again and again"


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc"])
def test_every_sampler_asks_beside_stopped_and_rejected_trials(here: Path, sampler: str) -> None:
    study = opened(sampler=sampler, trials=40)
    for index in range(12):
        number = claimed(study, 1000 + index)
        study.record_rung(number, rung(0, 0.5 + 0.01 * index))
        if index % 2:
            study.stop(number, 0, "weak", 500)
        else:
            study.complete(number, 0.5 + 0.01 * index, [1000 + index])
        study.reject(proposed(study, 100 + index), COSTS, {"params": 0.5})
    assert proposed(study, 0).architecture.family == "mlp"


def test_the_study_is_an_ordinary_optuna_study(here: Path) -> None:
    study = opened()
    number = claimed(study)
    study.record_rung(number, rung(0, 0.75))
    loaded = optuna.load_study(
        study_name="small", storage=f"sqlite:///{Path('studies/small/study.db').resolve()}"
    )
    assert loaded.trials[0].user_attrs["score_0"] == 0.75
    assert loaded.metric_names == ["accuracy", "params"]
