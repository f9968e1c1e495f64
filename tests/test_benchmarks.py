"""What benchmarks conclude from a table, on one made up to be checked by hand."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nasdistill.common.types import Input
from nasdistill.models import build
from nasdistill.space import Architecture

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def seen(accuracy: float, seconds: float, examples: int = 100) -> dict[str, Any]:
    parts = {"score": {"accuracy": accuracy, "loss": 1 - accuracy}, "audit": {"accuracy": accuracy}}
    return {**parts, "test": {"accuracy": accuracy}, "seconds": seconds, "examples": examples}


def table(rows: list[tuple[float, list[float]]]) -> Any:
    """A table of architectures with these full accuracies and scores at 1, 3 and 10 %."""
    from replay import EXAMPLES, Table

    lines: dict[tuple[int, int, str], Any] = {}
    for number, (full, scores) in enumerate(rows):
        lines[number, 0, "full"] = {"1.0": seen(full, 100.0)}
        shares = (0.01, 0.03, 0.1)
        lines[number, 0, "trunk"] = {
            # A second for each percent of a full run, cool-downs at each of these rungs included.
            str(share): seen(score, seconds, round(seconds * EXAMPLES / 100))
            for share, score, seconds in zip(shares, scores, (1.0, 3.4, 11.6), strict=True)
        }
    about = [
        {
            "params": 1000 * (1 + n),
            "macs": 1000 + 60 * n,
            "latency_ms": 0.1 * (1 + n),
            "depth": 3,
            "architecture": {"values": {"width": n, "kernel": 3 + 2 * (n % 2)}},
            "zero_cost": {"synflow": float(n % 5)},
        }
        for n in range(len(rows))
    ]
    everyone = tuple(range(len(rows)))
    return Table(everyone, about, lines, {n: (0,) for n in everyone})


def test_agreement_on_students_of_the_same_size() -> None:
    from replay import near_tau

    # MACs 100, 105, 200, 210: two pairs within a tenth. One agrees, one does not.
    tau, pairs = near_tau([[1, 2, 3, 4]], [0.5, 0.6, 0.9, 0.8], [100, 105, 200, 210])
    assert (tau, pairs) == (0.0, 2)
    tau, pairs = near_tau([[1, 2, 4, 3], [1, 2, 3, 4]], [0.5, 0.6, 0.9, 0.8], [100, 105, 200, 210])
    assert (tau, pairs) == (0.5, 2)


def test_a_replay_stops_who_the_search_would_stop_and_counts_its_seconds() -> None:
    from replay import climbed

    made = table([(0.9, [0.6, 0.7, 0.8]), (0.3, [0.2, 0.2, 0.2]), (0.8, [0.5, 0.6, 0.7])])
    passed, spent = climbed(made, [0, 1, 2])
    # The second is below the floor. The third is one of three, where one place is given, and the
    # first has it.
    assert passed == {0: 2, 1: 0, 2: 0}
    # Climbing to 10 % takes 6 % of trunk, and cool-downs of 1.2 and 4 %.
    assert spent == pytest.approx(11.2 + 3.0 + 3.0, rel=1e-4)
    passed, spent = climbed(made, [1, 0, 2])
    assert passed[1] == 2, "the first to come is the best so far"


def test_no_student_teaches_its_own_forecast() -> None:
    from replay import taught_by_others

    rng = random.Random(0)
    made = table([(0.9, [rng.random() for _ in range(3)]) for _ in range(12)])
    for number in range(12):
        made.lines[number, 0, "trunk"]["0.05"] = seen(rng.random(), 6.2)
    before = taught_by_others(made, 0.03, 0)
    made.lines[4, 0, "trunk"]["0.1"]["score"]["accuracy"] += 2.0
    after = taught_by_others(made, 0.03, 0)
    assert [i for i in range(12) if after[i] == before[i]] == [4]


def test_the_cost_of_a_search_counts_until_a_good_student_is_distilled() -> None:
    from replay import EXAMPLES, LADDER, Foretold
    from search_cost import ours, unexperienced, until_found

    made = table([(0.9, [0.6, 0.7, 0.8]), (0.3, [0.2, 0.2, 0.2]), (0.8, [0.5, 0.6, 0.7])])
    good = [True, False, False]
    assert until_found(made, [1, 2, 0], good) == 300.0
    assert until_found(made, [0, 1, 2], good) == 100.0
    seconds = unexperienced(made, [0, 1, 2], good, 0, LADDER)
    assert seconds == pytest.approx(17.2 + 100.0, rel=1e-4)
    for number in range(3):  # 5 seconds each to the rung that is scored
        made.lines[number, 0, "trunk"]["0.05"] = seen(0.5, 5.0, round(0.05 * EXAMPLES))
    # One is tried, the one that is foretold to be best; then the rest, as foretold.
    assert ours(made, good, 0, Foretold([2.0, 0.0, 1.0], 4.0)) == pytest.approx(105.0, rel=1e-4)
    assert ours(made, good, 0, Foretold([0.0, 2.0, 1.0], 4.0)) == pytest.approx(305.0, rel=1e-4)


def test_no_students_full_run_has_a_part_in_what_is_foretold_of_it() -> None:
    from replay import left_out

    rng = random.Random(1)
    rows = [(rng.uniform(0.5, 0.9), [0.5, 0.5, 0.5]) for _ in range(12)]
    before = left_out(table(rows))
    rows[4] = (0.99, rows[4][1])
    after = left_out(table(rows))
    same = [i for i in range(12) if before.guesses[i] == after.guesses[i]]
    assert same == [4] and any(before.guesses)


def test_a_guess_of_latency_by_everything_sees_what_counts_do_not() -> None:
    import numpy as np
    from latency_guess import by_all

    from nasdistill.results.experience import Untrained

    rng = np.random.default_rng(0)
    slow = rng.integers(0, 2, 30)
    names = ("relu", "silu")
    about = [Untrained({"activation": names[s]}, 1000 + i, 1000, 5) for i, s in enumerate(slow)]
    everything = by_all(about, np.exp(slow.astype(float)), list(range(15)))
    assert min(everything[i] for i in range(15, 30) if slow[i]) > max(
        everything[i] for i in range(15, 30) if not slow[i]
    )


def test_a_table_that_was_cut_off_is_one_of_fewer_architectures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import full_runs
    from replay import Table

    monkeypatch.setattr(full_runs, "HERE", tmp_path)
    lines = [
        {"architecture": n, "seed": 0, "kind": kind, "at": {"1.0": seen(0.5, 1.0)}}
        for n, kind in ((0, "full"), (0, "trunk"), (1, "full"), (2, "trunk"))
    ]
    (tmp_path / "full_runs_resnet.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "full_runs_resnet_architectures.json").write_text("[{}, {}, {}]")
    cut = Table.read("resnet")
    assert cut.numbers == (0,) and cut.scored("trunk") == [0] and cut.full_seeds == 1


def test_one_full_run_says_of_others_what_all_pairs_say_in_the_mean() -> None:
    from replay import ceiling

    made = table([(0.1, [0.0] * 3), (0.2, [0.0] * 3), (0.3, [0.0] * 3)])
    assert ceiling(made, "audit") is None
    for seed, order in ((1, (0.1, 0.2, 0.3)), (2, (0.3, 0.2, 0.1))):
        for number, accuracy in enumerate(order):
            made.lines[number, seed, "full"] = {"1.0": seen(accuracy, 100.0)}
    three = replace(made, seeds={n: (0, 1, 2) for n in range(3)})
    # Of three pairs one agrees and two are the other way round; the mean of an order and its
    # reverse has none, and that of two equal ones is the reverse of the third.
    assert ceiling(three, "audit") == (pytest.approx(-1 / 3), pytest.approx(-1 / 3))


def test_who_of_the_best_is_kept_by_a_rung() -> None:
    from scoring import kept

    truth = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert kept([[6, 5, 4, 3, 2, 1]], truth, top=2) == 1.0
    assert kept([[1, 2, 3, 4, 5, 6]], truth, top=2) == 0.0
    assert kept([[6, 1, 5, 2, 3, 4]], truth, top=2) == 0.5


def test_a_ridge_regression_finds_a_plane() -> None:
    import numpy as np
    from scoring import ridge

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    coefficients = ridge(x, 3.0 + 2.0 * x[:, 0] - x[:, 1])
    assert coefficients == pytest.approx([3.0, 2.0, -1.0], abs=0.02)


def test_texts_go_to_their_place_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import common

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- it: begin -->\nold\n<!-- it: end -->\nafter\n")
    monkeypatch.setattr(common, "HERE", tmp_path)
    common.write("it", {"figure": 1}, "new", page)
    assert page.read_text() == "before\n<!-- it: begin -->\nnew\n<!-- it: end -->\nafter\n"
    assert (tmp_path / "it.json").read_text() == '{\n "figure": 1\n}\n'
    assert sys.path[0] == str(BENCHMARKS)


def test_what_the_table_of_methods_bears() -> None:
    """The page on methods calls these four surely worse than the default pair, and none better."""
    from methods import surely_apart

    results = json.loads((BENCHMARKS / "methods.json").read_text())
    apart = surely_apart(results)
    worse = {"labels", "peers alone (no teacher)", "kl, cutmix", "kl, synthetic images alone"}
    assert set(apart) == worse and max(apart.values()) < 0
    page = (BENCHMARKS.parent / "docs" / "methods.md").read_text()
    assert f"there are {len(results) - 1} comparisons" in page and "None is surely above it" in page


def test_rows_are_apart_where_even_the_smallest_of_many_chances_is_small() -> None:
    from methods import surely_apart

    rows = {f"row {n}": {"accuracies": [0.49, 0.50, 0.51]} for n in range(20)}
    rows["labels + kl (default)"] = {"accuracies": [0.49, 0.50, 0.51]}
    assert surely_apart(rows) == {}
    # t = 0.025 / (0.01 * sqrt(2 / 3)) = 3.06 of 44 degrees: 0.0037, and 21 times that is 0.08.
    rows["lucky"] = {"accuracies": [0.515, 0.525, 0.535]}
    assert surely_apart(rows) == {}
    rows["better"] = {"accuracies": [0.54, 0.55, 0.56]}
    assert surely_apart(rows) == {"better": pytest.approx(0.05)}


def test_a_student_begins_with_leading_channels_and_the_middle_of_a_kernel() -> None:
    import bank

    weight = torch.arange(4 * 3 * 5 * 5).reshape(4, 3, 5, 5)
    part = bank.part_of(weight, torch.Size([2, 3, 3, 3]))
    assert torch.equal(part, weight[:2, :, 1:4, 1:4])
    assert torch.equal(bank.part_of(torch.arange(5), torch.Size([3])), torch.arange(3))


def test_parameters_of_a_bank_are_named_by_role() -> None:
    import bank

    block = {"type": "mbconv", "expansion": 2, "kernel": 3, "squeeze_excite": False}
    ghost = {"type": "ghost", "expansion": 2, "kernel": 3}
    stages = [{"width": 8, "depth": 1, "block": block}, {"width": 16, "depth": 2, "block": ghost}]
    values = {"activation": "relu", "stem": 8, "stages": stages, "head": 16}
    architecture = Architecture("mobile", values)
    roles = bank.by_role(architecture, build(architecture, Input(1, 28, 28), 10))
    assert roles["stage0.0.body.2.0.weight"] == "stage0/0/mbconv/project/0/weight"
    strided = roles["stage1.0.body.1.0.weight"], roles["stage1.1.body.1.primary.0.weight"]
    assert strided[0] == "stage1/0/ghost/depthwise/0/weight"
    assert strided[1] == "stage1/1/ghost/project/primary/0/weight"
    assert len(set(roles.values())) == len(roles)


def test_tables_are_joined_by_a_seed_that_both_have() -> None:
    from replay import Table

    one, two = Table.read("mobile"), Table.read("mobile_cifar10")
    joined = Table.read_joined(["mobile", "mobile_cifar10"])
    assert len(joined.numbers) == len(one.numbers) + len(two.numbers)
    last = two.lines[two.numbers[-1], 0, "full"]["1.0"]["test"]["accuracy"]
    assert joined.truth("test")[-1] == last and joined.full_seeds == 1


def test_each_int8_final_is_held_against_each_target() -> None:
    from deployment import against_teacher, finals_that_meet, reasons, verdicts

    small = {"final": "1", "loss_points": 100 * (0.9 - 0.895), "bytes_ratio": 0.3, "ratio_1": 1.0}
    small |= {"ratio_64": 1.2, "compression": 40.0, "kept": 0.96}
    large = {"final": "2", "loss_points": 0.6, "bytes_ratio": 0.31, "ratio_1": 0.9}
    large |= {"ratio_64": 0.8, "compression": 39.0, "kept": 0.99}
    assert list(finals_that_meet([small, large]).values()) == [
        ["1"],
        ["1"],
        ["1", "2"],
        ["2"],
        ["1"],
    ]
    text = verdicts([small, large], None)
    assert "at most 0.30 of the bytes: missed, by 1 of 2; batch 1 no slower: met, by 2 of 2" in text
    assert "with 96 % of its accuracy: missed, by 1 of 2" in text and "NNCF was not inst" in text
    teacher = {"bytes": 4000000, "accuracy": 0.91}
    assert "has 4,000,000 bytes" in against_teacher([small, large], teacher)
    assert "1: 40×, 96.0%, 2: 39×, 99.0%" in against_teacher([small, large], teacher)
    by_name = {"QLinearConv": 2.0, "Add": 1.0, "HardSwish": 0.5, "Gemm": 0.25, "A": 0.1, "B": 0.05}
    text = reasons([{"final": "1", "file": "onnx-int8", "operators": {64: by_name}}], vnni=False)
    assert "QLinearConv 2.000, Add 1.000, HardSwish 0.500, Gemm 0.250, others 0.150" in text
    assert text.startswith("This processor has no VNNI")


def test_operators_are_timed_by_kind(tmp_path: Path) -> None:
    import numpy as np
    from deployment import operators

    from nasdistill.models.export import quick_onnx

    layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3)]
    (tmp_path / "net.onnx").write_bytes(quick_onnx(torch.nn.Sequential(*layers), Input(1, 8, 8)))
    by_name = operators(tmp_path / "net.onnx", np.zeros((2, 1, 8, 8), np.float32))
    assert {"Conv", "Gemm"} <= set(by_name) and all(ms > 0 for ms in by_name.values())
    assert not list(tmp_path.glob("*.json"))
