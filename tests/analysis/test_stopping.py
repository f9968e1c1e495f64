from nasdistill.analysis.stopping import stop_reason
from nasdistill.results.rungs import Ladder


def test_budgets_and_what_they_cost() -> None:
    ladder = Ladder.geometric(1000, 3, 3)
    assert ladder.budgets == (1000, 3000, 9000)
    assert [ladder.trunk_end(r) for r in range(3)] == [600, 1800, 5400]
    # Trunk up to 5,400, and cool-downs of 400, 1,200 and 3,600.
    assert ladder.examples(2) == 5400 + 400 + 1200 + 3600
    assert ladder.examples(0) == 1000


def test_the_first_at_a_rung_goes_on() -> None:
    assert stop_reason(0, [0.3], [0.3], [[100.0]], eta=3, chance=0.1) is None


def test_a_dominated_trial_is_stopped() -> None:
    reason = stop_reason(1, [0.80, 0.79], [0.80, 0.79], [[100.0], [200.0]], eta=3, chance=0.1)
    assert reason == "not among the best 1 of 2 at this rung"


def test_a_trial_on_the_front_goes_on_although_others_are_more_accurate() -> None:
    accuracies = [0.80, 0.85, 0.78, 0.77, 0.76, 0.75]
    costs = [[200.0], [400.0], [300.0], [400.0], [500.0], [20.0]]
    assert stop_reason(5, accuracies, accuracies, costs, eta=2, chance=0.1) is None
    assert stop_reason(2, accuracies, accuracies, costs, eta=2, chance=0.1) is not None


def test_a_tiny_student_far_below_the_rest_is_stopped_although_nothing_dominates_it() -> None:
    reason = stop_reason(1, [0.85, 0.40], [0.85, 0.40], [[100.0], [1.0]], eta=1, chance=0.1)
    assert reason is not None and "below the rung's floor of 0.475" in reason


def test_the_most_accurate_goes_on_although_it_costs_the_most() -> None:
    accuracies, costs = [0.70, 0.68, 0.66, 0.69], [[900.0], [100.0], [50.0], [880.0]]
    going = [i for i in range(4) if stop_reason(i, accuracies, accuracies, costs, 2, 0.1) is None]
    assert going == [0, 1]


def test_a_third_goes_on() -> None:
    accuracies = [0.70 + 0.01 * i for i in range(9)]
    costs = [[100.0]] * 9
    going = [i for i in range(9) if stop_reason(i, accuracies, accuracies, costs, 3, 0.1) is None]
    assert going == [6, 7, 8]


def test_forecasts_decide_who_goes_on_and_accuracies_who_is_below_the_floor() -> None:
    accuracies, forecasts, costs = [0.80, 0.79, 0.20], [0.0, 1.0, 9.0], [[100.0]] * 3
    going = [i for i in range(3) if stop_reason(i, accuracies, forecasts, costs, 2, 0.1) is None]
    assert going == [1]
    reason = stop_reason(2, accuracies, forecasts, costs, 2, 0.1)
    assert reason is not None and "below the rung's floor" in reason
