"""Bias and corruptions worked by hand, and a real final evaluated from the command line."""

from __future__ import annotations

import io
import json
import math
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from small_study import KILLED_SEARCH, prepare, write_blobs
from torch import nn
from typer.testing import CliRunner

from nasdistill import evaluation
from nasdistill.analysis.evaluation import findings, read_quality
from nasdistill.cli import app
from nasdistill.cli.display_evaluation import quality_tables
from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.data import load_data
from nasdistill.evaluation.bias import can_tell, confusions, find_bias, holm, paired_p
from nasdistill.evaluation.corruptions import CORRUPTIONS, Corruption, corrupt
from nasdistill.evaluation.evaluate import _per_class
from nasdistill.teachers import Teacher

# -- bias -----------------------------------------------------------------------------------------


def test_paired_test_by_hand() -> None:
    assert paired_p(0, 0) == 1.0
    assert paired_p(3, 3) == 1.0
    assert paired_p(0, 5) == paired_p(5, 0) == 2 / 32
    assert paired_p(0, 6) == 2 / 64
    assert paired_p(2, 8) == 2 * (1 + 10 + 45) / 1024
    # Fagerland et al. (2013), airway hyper-responsiveness: 1 and 7 discordant pairs, exact p .0703.
    assert paired_p(1, 7) == pytest.approx(0.0703, abs=5e-5)
    assert 0 < paired_p(300, 700) < 1e-30


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and none below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_six_examples_are_the_fewest_that_can_tell() -> None:
    assert [can_tell(n) for n in (0, 5, 6)] == [False, False, True]


def _predictions(*runs: tuple[int, int, int, int]) -> tuple[torch.Tensor, ...]:
    """Examples from runs of (label, student, teacher, how many); gives student, teacher, labels."""
    rows = [run[:3] for run in runs for _ in range(run[3])]
    random.Random(0).shuffle(rows)
    labels, student, teacher = torch.tensor(rows).T
    return student, teacher, labels


def test_confusions_are_counted_by_true_class_and_answer() -> None:
    student, teacher, labels = _predictions((0, 0, 0, 3), (0, 1, 1, 2), (0, 1, 0, 1), (1, 0, 1, 4))
    of_student, of_teacher, of_both = confusions(student, teacher, labels, 3).tolist()
    assert of_student == [[3, 3, 0], [4, 0, 0], [0, 0, 0]]
    assert of_teacher == [[4, 2, 0], [0, 4, 0], [0, 0, 0]]
    assert of_both == [[3, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_inherited_worsened_and_mended_by_hand() -> None:
    predictions = _predictions(
        (0, 0, 0, 80),
        (0, 1, 1, 12),
        (0, 0, 1, 4),
        (0, 1, 0, 4),  # 16 each: inherited
        (1, 1, 1, 85),
        (1, 2, 1, 12),
        (1, 1, 2, 1),
        (1, 2, 2, 2),  # 14 against 3: worsened
        (2, 2, 2, 88),
        (2, 2, 0, 12),  # 0 against 12: mended
        (3, 3, 3, 94),
        (3, 0, 0, 3),
        (3, 3, 0, 1),
        (3, 0, 3, 2),  # 5 against 4: inherited
    )
    judged, tested = find_bias(confusions(*predictions, 4))
    by_pair = {(c.true, c.answered): c for c in judged}
    assert {key: c.verdict for key, c in by_pair.items()} == {
        (0, 1): "inherited",
        (1, 2): "worsened",
        (2, 0): "mended",
        (3, 0): "inherited",
    }
    # (0, 1) has 8 discordant examples, (1, 2) 13, (2, 0) 12; (3, 0) has 3, and cannot tell.
    assert tested == 3
    assert by_pair[0, 1].p == 1.0  # 4 to 4
    assert by_pair[1, 2].p == pytest.approx(2 * 2 * (1 + 13) / 2**13)  # second smallest of three
    assert by_pair[2, 0].p == pytest.approx(3 * 2 / 2**12)
    worse = by_pair[1, 2]
    assert (worse.examples, worse.teacher, worse.student, worse.both) == (100, 3, 14, 2)
    assert [c.student for c in judged] == [16, 14, 5, 0]


def test_the_difference_of_a_class_is_tested_on_examples_that_one_alone_gets_right() -> None:
    student, teacher, labels = _predictions(
        (0, 0, 0, 80), (0, 1, 0, 9), (0, 0, 1, 1), (0, 1, 1, 10), (1, 1, 1, 40), (1, 1, 0, 10)
    )
    first, second = _per_class(torch.eye(2)[student], torch.eye(2)[teacher], labels, ("a", "b"))
    assert (first["student"]["value"], first["teacher"]["value"]) == (0.81, 0.89)
    assert first["difference"] == pytest.approx(-0.08)
    assert first["p"] == pytest.approx(2 * (1 + 10) / 1024)  # 1 to 9, the larger of two
    assert second["p"] == pytest.approx(2 * 2 / 1024)  # 10 to 0


def test_what_the_teacher_rarely_does_is_not_inherited() -> None:
    # 2 of 100 are 2 %, but the lower end of their interval is .55 %.
    judged, _ = find_bias(confusions(*_predictions((0, 1, 1, 2), (0, 0, 0, 98), (1, 1, 1, 9)), 2))
    assert judged == []
    # The teacher's 10 of 100 (5.5 to 17.4 %), the student's 5 alike: fewer, but not surely.
    predictions = _predictions((0, 1, 1, 5), (0, 0, 1, 5), (0, 0, 0, 90), (1, 1, 1, 9))
    assert find_bias(confusions(*predictions, 2)) == ([], 0)


def test_two_equal_models_differ_in_nothing_beyond_chance() -> None:
    """On 40 pairs of models with the same error rates, one false finding in 20 is allowed."""
    false = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(2000) % 10
        models = []
        for _ in range(2):
            wrong = torch.rand(2000, generator=generator) < 0.3
            other = torch.randint(0, 10, (2000,), generator=generator)
            models.append(torch.where(wrong, other, labels))
        judged, tested = find_bias(confusions(*models, labels, 10))
        assert tested > 0
        false += any(c.verdict != "inherited" for c in judged)
    assert false <= 4


# -- corruptions ----------------------------------------------------------------------------------


def test_noise_has_the_stated_deviation_and_is_cut_off() -> None:
    images = torch.full((4, 1, 64, 64), 128, dtype=torch.uint8)
    normal = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    worse = corrupt(images, Corruption("noise", 0.08), normal)
    assert worse.dtype == torch.uint8
    assert float(worse.float().std()) / 255 == pytest.approx(0.08, rel=0.03)
    assert float(worse.float().mean()) == pytest.approx(128, abs=0.5)
    stronger = corrupt(images, Corruption("noise", 0.16), normal)
    assert ((stronger >= 128) == (worse >= 128)).float().mean() > 0.98
    white = torch.full_like(images, 255)
    assert 0 < float((corrupt(white, Corruption("noise", 0.1), normal) < 255).float().mean()) < 0.55


def test_blur_is_a_gaussian_of_the_shorter_side() -> None:
    images = torch.zeros(1, 3, 40, 50, dtype=torch.uint8)
    images[:, :, 20, 25] = 255
    blurred = corrupt(images, Corruption("blur", 0.05), torch.zeros(1))[0, 1].double()  # sigma 2
    offset = torch.arange(40.0).double() - 20
    kernel = torch.exp(-(offset**2) / 8)
    row = 255 * (kernel / kernel.sum()).max() * kernel / kernel.sum()
    assert blurred[:, 25].tolist() == pytest.approx(row.tolist(), abs=0.55)
    assert torch.equal(blurred, blurred.flip(0).roll(1, 0))
    grey = torch.full((1, 1, 16, 16), 77, dtype=torch.uint8)
    for each in CORRUPTIONS:
        if each.kind == "blur":
            assert torch.equal(corrupt(grey, each, torch.zeros(1)), grey)


# -- a whole evaluation ---------------------------------------------------------------------------


class Bars(nn.Module):
    """Scores three classes by the brightness of three bands."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bands = images.float().mean(dim=(1, 3))
        third = bands.shape[1] // 3
        return torch.stack([bands[:, third * k : third * (k + 1)].mean(1) for k in range(3)], 1)


class Counting(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.count = inner, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.count += len(images)
        logits: torch.Tensor = self.inner(images)
        return logits


def _comparison(
    folder: Path, teacher: nn.Module, side: int = 32, **more: Any
) -> evaluation.Comparison:
    dataset = load_data(f"npz:{write_blobs(folder / 'b.npz')}", device=torch.device("cpu"))
    frozen = Teacher("t", teacher.eval(), Input(1, side, side), 3, "0", {})
    names = ("a", "b", "c")
    options = {"data": "blobs", "part": "test", "corrupted": 60} | more
    return evaluation.Comparison(frozen, dataset.test, (16, 16), names, **options)


def test_a_student_that_is_its_teacher_has_no_bias_of_its_own(tmp_path: Path) -> None:
    quality = evaluation.evaluate(Bars().eval(), _comparison(tmp_path, Bars(), side=16))
    assert quality["agreement"]["all"] == 1.0
    assert quality["accuracy"]["student"] == quality["accuracy"]["teacher"]
    assert all(row["agreement"] == 1.0 for row in quality["robustness"]["rows"])
    assert quality["class_relations"]["preservation"] == 1.0
    assert not [c for c in quality["bias"]["confusions"] if c["verdict"] != "inherited"]
    assert len(quality["class_relations"]["worst_pairs"]) == 3
    assert "differs from the teacher's by more than chance" in findings(quality)[0]


def test_figures_are_those_of_the_logits(tmp_path: Path) -> None:
    class Never(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scores = Bars()(images)
            return torch.stack([scores[:, 0], scores[:, 1] - 1e6, scores[:, 2]], 1)

    comparison = _comparison(tmp_path, Bars())
    quality = evaluation.evaluate(Never().eval(), comparison)
    labels, counts = comparison.labels, torch.bincount(comparison.labels)
    assert quality["examples"] == 200 and quality["robustness"]["examples"] == 60
    rows = {row["class"]: row for row in quality["per_class"]}
    assert [rows[name]["examples"] for name in "abc"] == counts.tolist()
    assert rows["b"]["student"]["value"] == 0.0 and rows["b"]["p"] < 1e-6
    teacher = comparison.teacher_logits.argmax(1)
    share = float((teacher[labels == 1] == 1).double().mean())
    assert rows["b"]["teacher"]["value"] == pytest.approx(share)
    assert rows["b"]["difference"] == pytest.approx(-share)
    own = [c for c in quality["bias"]["confusions"] if c["verdict"] == "worsened"]
    assert {c["true"] for c in own} == {"b"} and sum(c["student"] for c in own) <= 1
    assert quality["bias"]["losing_classes"][0]["class"] == "b"
    student = [row["student"]["value"] for row in quality["per_class"]]
    assert quality["bias"]["spread"]["student"]["range"] == pytest.approx(max(student))
    assert quality["bias"]["spread"]["student"]["deviation"] == pytest.approx(np.std(student))
    right = quality["agreement"]["teacher_right"]
    assert right == pytest.approx(
        float(((teacher == labels) & (comparison.logits(Never()).argmax(1) == teacher)).sum())
        / float((teacher == labels).sum())
    )
    assert quality["agreement"]["teacher_right_examples"] + quality["agreement"][
        "teacher_wrong_examples"
    ] == len(labels)
    assert "b (−" in findings(quality)[0] and "worsened" in findings(quality)[1]


def test_the_teacher_is_run_once_and_both_see_the_same_pictures(tmp_path: Path) -> None:
    teacher = Counting(Bars())
    comparison = _comparison(tmp_path, teacher)
    first, second = (evaluation.evaluate(Bars().eval(), comparison) for _ in range(2))
    assert teacher.count == 200 + 60 * (1 + len(CORRUPTIONS))
    assert first["robustness"] == second["robustness"]
    seen: dict[str, list[torch.Tensor]] = {"a": [], "b": []}

    def record(name: str) -> Any:
        return lambda images: seen[name].append(images.clone()) or torch.zeros(len(images), 3)

    comparison._predict_corrupted(record("a"), None)
    comparison._predict_corrupted(record("b"), None)
    assert all(torch.equal(a, b) for a, b in zip(seen["a"], seen["b"], strict=True))
    assert len(seen["a"]) == 1 + len(CORRUPTIONS) and not torch.equal(seen["a"][0], seen["a"][1])


def test_robustness_rows_by_hand(tmp_path: Path) -> None:
    comparison = _comparison(tmp_path, Bars())
    robustness = evaluation.evaluate(Bars().eval(), comparison)["robustness"]
    labels, logits = (
        comparison.labels[comparison.chosen],
        comparison._predict_corrupted(Bars(), None),
    )
    assert [(row["kind"], row["severity"]) for row in robustness["rows"]] == [
        (each.kind, each.severity) for each in CORRUPTIONS
    ]
    clean = float((logits[None].argmax(1) == labels).double().mean())
    drops = []
    for each, row in zip(CORRUPTIONS, robustness["rows"], strict=True):
        share = float((logits[each].argmax(1) == labels).double().mean())
        assert row["student"] == share
        assert row["retention"]["student"] == pytest.approx(share / clean)
        drops.append(1 - share / clean)
    assert robustness["clean"]["student"] == clean
    assert robustness["mean_drop"]["student"] == pytest.approx(sum(drops) / len(drops))


def test_labels_in_another_order_are_put_in_the_teachers(tmp_path: Path) -> None:
    plain = _comparison(tmp_path, Bars())
    turned = _comparison(tmp_path, Bars(), order=(2, 0, 1))
    assert turned.labels.tolist() == [[2, 0, 1][k] for k in plain.labels.tolist()]


def test_a_class_without_examples_gives_no_nan_in_json(tmp_path: Path) -> None:
    comparison = _comparison(tmp_path, Bars())
    comparison.classes = ("a", "b", "c", "d")

    class Wider(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cat([Bars()(images), torch.full((len(images), 1), -1e3)], 1)

    comparison.teacher.module = Wider().eval()
    quality = evaluation.evaluate(Wider().eval(), comparison)
    path = evaluation.write_quality(tmp_path, quality)
    assert read_quality(tmp_path) == json.loads(path.read_text()) == quality
    assert quality["per_class"][3]["student"] == {"value": None, "low": 0.0, "high": 1.0}
    assert not any(math.isnan(v) for v in quality["bias"]["spread"]["student"].values())
    shares = [row["student"]["value"] for row in quality["per_class"][:3]]
    assert quality["balanced_accuracy"]["student"]["value"] == pytest.approx(sum(shares) / 3)
    assert "Without examples, and so not judged: d." in findings(quality)[0]
    console = Console(file=io.StringIO(), width=100)
    for table in quality_tables(quality):
        console.print(table)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"│ d +│ no examples +│ no examples", shown) and "nan" not in shown
    assert "balanced accuracy" in shown and "share of the largest class" in shown


def test_another_version_is_not_read(tmp_path: Path) -> None:
    assert read_quality(tmp_path) is None
    (tmp_path / "quality.json").write_text('{"version": 0}')
    assert read_quality(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"version": 1}', b"\xff"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "quality.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: "):
        read_quality(tmp_path)


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("done"))
    subprocess.run(
        [sys.executable, str(KILLED_SEARCH), "never"], cwd=folder, check=True, timeout=300
    )
    return folder


@pytest.fixture
def study(done: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(done)
    return done


def _run(*arguments: str) -> SimpleNamespace:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def test_a_search_leaves_the_quality_of_its_finals(study: Path) -> None:
    finals = sorted((study / "studies/small/finals").glob("*/metrics.json"))
    assert finals
    for path in finals:
        quality, metrics = read_quality(path.parent), json.loads(path.read_text())
        assert quality is not None
        assert quality["accuracy"]["student"]["value"] == pytest.approx(metrics["test_accuracy"])
        assert quality["agreement"]["all"] == pytest.approx(metrics["agreement"])
        assert quality["calibration"]["student"]["ece"] == pytest.approx(metrics["ece"], abs=1e-6)
        preservation = metrics["class_relation_preservation"]
        assert quality["class_relations"]["preservation"] == pytest.approx(preservation)
    assert "Quality of the finals" in (study / "reports/small/index.html").read_text("utf-8")


def test_evaluate_prints_json_and_writes_the_file(study: Path) -> None:
    file = study / "studies/small/finals/1/quality.json"
    file.unlink(missing_ok=True)
    result = _run("evaluate", "small/1", "--json", "--device", "cpu")
    assert result.code == 0
    quality = json.loads(result.out)
    assert quality.pop("final") == "small/1" and Path(quality.pop("file")).samefile(file)
    assert json.loads(file.read_text()) == quality
    assert quality["examples"] == 200 and quality["robustness"]["examples"] == 200
    again = json.loads(_run("evaluate", str(file.parent), "--json").out)
    for name in set(quality) - {"seconds"}:
        assert again[name] == quality[name], name


def test_evaluate_prints_tables_and_sentences(study: Path) -> None:
    text = _run("evaluate", "small/1").out
    for expected in (
        "agreement",
        "where the teacher is wrong",
        "calibration error",
        "By class",
        "blur",
        "class relations kept",
        "noise",
        "teacher is",
        "Written: ",
        "nasdistill report small",
    ):
        assert expected in text, expected


def test_other_data_and_other_splits_write_nothing(study: Path) -> None:
    file = study / "studies/small/finals/1/quality.json"
    _run("evaluate", "small/1")
    before = file.read_bytes()
    audit = json.loads(_run("evaluate", "small/1", "--split", "audit", "--json").out)
    assert audit["split"] == "audit" and audit["file"] is None and audit["examples"] < 200
    write_blobs(study / "other.npz", train=90, test=30, size=24)
    other = json.loads(_run("evaluate", "small/1", "--data", "npz:other.npz", "--json").out)
    assert other["data"] == "npz:other.npz" and other["examples"] == 30 and other["file"] is None
    assert file.read_bytes() == before


def test_other_data_may_lack_a_class_which_is_scored_by_name(study: Path) -> None:
    write_blobs(study / "lacking.npz", train=300, test=60)
    arrays = dict(np.load("lacking.npz"))
    kept, tested = (arrays[f"{part}labels"] != 1 for part in ("", "test_"))
    np.savez(
        "lacking.npz",
        images=arrays["images"][kept],
        labels=arrays["labels"][kept] // 2,
        test_images=arrays["test_images"][tested],
        test_labels=arrays["test_labels"][tested] // 2,
        classes=np.array(["0", "2"]),
    )
    quality = json.loads(_run("evaluate", "small/1", "--data", "npz:lacking.npz", "--json").out)
    assert [row["examples"] for row in quality["per_class"]] == [20, 0, 20]
    assert quality["accuracy"]["student"]["value"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none/1",), "no study 'none'"),
        (("small/9",), "has no final '9'"),
        (("small",), "neither STUDY/RANK nor the folder of a final"),
        (("small/1", "--split", "train"), "allowed are test and audit"),
        (("small/1", "--device", "abacus"), "--device 'abacus'"),
        (("small/1", "--data", "npz:more.npz"), "has other classes than the study's"),
        (("small/1", "--data", "npz:none.npz"), "none.npz"),
    ],
)
def test_what_the_user_can_mend_is_one_message(
    arguments: tuple[str, ...], words: str, study: Path
) -> None:
    arrays = dict(np.load("blobs.npz"))
    np.savez("more.npz", **(arrays | {"labels": np.arange(600) % 4}))
    result = _run("evaluate", *arguments)
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err and words in result.err


def test_a_changed_teacher_or_changed_data_are_refused(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(done, tmp_path / "copy")
    monkeypatch.chdir(folder)
    own = Path("own.py").read_text()
    Path("own.py").write_text(own.replace("= 0.3", "= 0.2"))
    result = _run("evaluate", "small/1")
    assert result.code == 2 and "has other weights" in result.err
    Path("own.py").write_text("def nothing(classes, input): ...\n")
    result = _run("evaluate", "small/1")
    assert result.code == 2 and "unknown teacher" in result.err
    Path("own.py").write_text(own)
    write_blobs(Path("blobs.npz"), train=500)
    result = _run("evaluate", "small/1")
    assert result.code == 2 and "are not those it was made with" in result.err


def test_a_final_whose_evaluation_was_lost_gets_it_with_the_next_command(study: Path) -> None:
    finals = study / "studies/small/finals"
    ranks = sorted(path.parent.name for path in finals.glob("*/metrics.json"))
    lost = finals / ranks[0] / "quality.json"
    lost.unlink()
    assert _run("distill", "small", "--top-k", str(len(ranks))).code == 0
    assert read_quality(lost.parent) is not None
    lost.write_bytes(lost.read_bytes()[:100])
    assert _run("distill", "small", "--top-k", str(len(ranks))).code == 0
    assert read_quality(lost.parent) is not None
    assert lost.with_name("quality.json.damaged").stat().st_size == 100
