from __future__ import annotations

import errno
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from nasdistill import api
from nasdistill.cli import app
from nasdistill.cli.display import Display, describe_front, short_duration
from nasdistill.common.errors import disk_problem
from nasdistill.common.events import Event
from nasdistill.recipe import FLAGS, Recipe
from nasdistill.space import SearchSpace

COMMANDS = (
    "search",
    "resume",
    "distill",
    "report",
    "studies",
    "spaces",
    "teacher train",
    "teacher evaluate",
    "teacher record",
    "evaluate",
    "profile",
    "export",
    "tune",
    "audit",
)


def _run(*arguments: str) -> SimpleNamespace:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def _options(command: str) -> dict[str, click.Option]:
    node: Any = typer.main.get_command(app)
    for part in command.split():
        node = node.commands[part]
    options = [option for option in node.params if option.param_type_name == "option"]
    return {flag: option for option in options for flag in option.opts}


def _imported(*arguments: str, cwd: Path) -> set[str]:
    """Heavy packages that a command has imported by its end."""
    code = (
        "import sys\nfrom nasdistill.cli import app\n"
        f"try:\n    app({list(arguments)!r})\nexcept SystemExit:\n    pass\n"
        "print('loaded', *{name.split('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(api.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(run.stdout.rsplit("loaded", 1)[1].split())
    return loaded & {"torch", "torchvision", "optuna", "pandas", "plotly", "onnx", "timm"}


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), *[(*c.split(), "--help") for c in COMMANDS], ("spaces",)]
)
def test_help_and_the_list_of_spaces_load_nothing_heavy(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    assert _imported(*arguments, cwd=tmp_path) == set()


def _empty_study(folder: Path) -> None:
    """A study without trials, as a search that was interrupted at once leaves it."""
    import optuna

    study_folder = folder / "studies" / "begun"
    study_folder.mkdir(parents=True)
    (study_folder / "recipe.yaml").write_text(Recipe().to_yaml())
    storage = f"sqlite:///{study_folder / 'study.db'}"
    study = optuna.create_study(study_name="begun", storage=storage)
    study.set_user_attr("recipe", Recipe().stored())


@pytest.mark.parametrize("arguments", [("studies",), ("report", "begun")])
def test_studies_and_report_need_no_torch(arguments: tuple[str, ...], tmp_path: Path) -> None:
    _empty_study(tmp_path)
    loaded = _imported(*arguments, cwd=tmp_path)
    assert "optuna" in loaded and "torch" not in loaded


def test_a_report_of_an_empty_study_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _empty_study(tmp_path)
    result = _run("report", "begun")
    assert (result.code, result.out) == (2, "") and "begun" in result.err
    (row,) = json.loads(_run("studies", "--json").out)
    assert (row["study"], row["trials"], row["trials_total"]) == ("begun", 0, 24)


def test_a_refused_report_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _empty_study(tmp_path)
    _run("report", "begun")
    assert not (tmp_path / "reports").exists()


def test_every_option_says_its_default() -> None:
    for command in COMMANDS:
        for flag, option in _options(command).items():
            text = option.help or ""
            assert "default" in text, f"{command} {flag}: {text}"


def test_stated_defaults_are_those_of_the_recipe() -> None:
    options, recipe = _options("search"), Recipe()
    for key in (
        "space",
        "data",
        "trials",
        "top_k",
        "seed",
        "sampler",
        "batch_size",
        "views",
        "device",
        "final_budget",
        "latency_engine",
    ):
        value = recipe.stored()[key]
        text = options[f"--{key.replace('_', '-')}"].help or ""
        assert re.search(rf"default: {re.escape(str(value))}[),;]", text), (key, value, text)
    rates = options["--learning-rate"].help or ""
    assert f"default: {recipe.rate()} for fresh students, {recipe.rate('teacher')} for" in rates
    text = options["--minimize"].help or ""
    assert f"default: {','.join(recipe.minimize)})" in text
    text = options["--rung-count"].help or ""
    assert f"default: {recipe.rungs.count})" in text
    assert recipe.first_rung(10_000) == 8 * 10_000 // 20
    assert "a twentieth of the final" in (options["--first-rung"].help or "")
    assert recipe.first_rung(1_000) == 2000 and "2k images" in (options["--first-rung"].help or "")
    assert recipe.first_rung(100) == 400, "half a full run"


def test_every_key_of_a_recipe_is_a_flag() -> None:
    flags = set(_options("search"))
    nested = {"rungs", "scoring", "final", "teachers", "iterate"}
    keys = [field.alias or name for name, field in Recipe.model_fields.items()]
    assert {f"--{key.replace('_', '-')}" for key in keys if key not in nested} <= flags
    assert set(FLAGS.values()) <= flags


def test_flags_reach_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Recipe] = []

    def search(recipe: Recipe, **others: Any) -> Any:
        seen.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "search", search)
    result = _run(
        "search",
        "--space",
        "vit",
        "--max-params",
        "250k",
        "--minimize",
        "params",
        "--minimize",
        "macs,bytes",
        "--no-stopping",
        "--baseline",
        "--first-rung",
        "1.5 epochs",
        "--eta",
        "4",
        "--alpha",
        "0.5",
        "--synthetic",
        "300",
        "--min-accuracy",
        "88%",
        "--import",
        "own.py",
        "--time-limit",
        "10m",
    )
    assert result.code == 130
    (recipe,) = seen
    assert (recipe.space, recipe.max_params, recipe.baseline) == ("vit", 250_000, True)
    assert recipe.minimize == ("params", "macs", "bytes") and recipe.stopping is False
    assert recipe.rungs.first.epochs == 1.5 and (recipe.rungs.eta, recipe.rungs.count) == (4, 1)
    assert recipe.scoring.alpha == recipe.final.alpha == 0.5
    for feed in (recipe.scoring.feed, recipe.final.feed):
        assert feed.synthetic is not None and feed.synthetic.images == 300
    assert (recipe.min_accuracy, recipe.import_file, recipe.time_limit) == (0.88, "own.py", 600.0)


def test_bad_flags_are_told_all_at_once_and_leave_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run("search", "--trials", "none", "--max-latency", "5 apples", "--sampler", "tp")
    assert (result.code, result.out) == (2, "")
    assert "--trials: found 'none'" in result.err and "--max-latency: '5 apples'" in result.err
    assert "--sampler: found 'tp'; allowed: random, tpe" in result.err
    assert "Traceback" not in result.err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "--space", "mobil"), "did you mean 'mobile'?"),
        (("search", "--recipe", "none.yaml"), "none.yaml: No such file"),
        (("resume", "none"), "no study 'none'"),
        (("resume", "none", "--trials", "0"), "--trials: found 0"),
        (("distill", "none"), "no study 'none'"),
        (("distill", "none", "--trial", "1", "--top-k", "2"), "not both"),
        (("report", "none"), "no study 'none'"),
        (("spaces", "moble"), "did you mean 'mobile'?"),
        (("profile", "none"), "neither a final, an architecture.json nor a file"),
        (("export", "none", "1"), "no study 'none'"),
        (("evaluate", "none/1"), "no study 'none'"),
        (("profile", "x.json", "--threads", "0"), "--threads: found 0; must be from 1 to 256"),
        (("profile", "x.json", "--threads", "-1"), "--threads: found -1"),
        (("profile", "x.json", "--threads", "1000000"), "--threads: found 1000000"),
        (("profile", "x.json", "--batch", "0"), "--batch: found 0; must be from 1 to 16,384"),
        (("profile", "x.json", "--batch", "-4"), "--batch: found -4"),
        (("profile", "x.json", "--batch", "1000000000000"), "--batch: found 1000000000000"),
        (("profile", "x.json", "--size", "0"), "--size: found 0; must be from 1 to 1,024"),
        (("profile", "x.json", "--channels", "2"), "--channels: found 2; must be 1 (grey)"),
        (("profile", "x.json", "--classes", "0"), "--classes: found 0; must be from 1 to 100,000"),
        (("spaces", "mlp", "--size", "100000"), "--size: found 100000"),
        (("spaces", "mlp", "--channels", "-1"), "--channels: found -1"),
        (("spaces", "mlp", "--classes", "-1"), "--classes: found -1"),
        (("audit", "none", "--count", "2"), "--count: found 2; must be from 3"),
        (("audit", "none", "--repeats", "-1"), "--repeats: found -1"),
        (("tune", "none", "--epochs", "0"), "--epochs: found 0"),
        (("teacher", "train", "--out", "t", "--epochs", "0"), "--epochs: found 0"),
        (("teacher", "train", "--out", "t", "--seed", "-1"), "--seed: found -1"),
        (("teacher", "train", "--out", "t", "--learning-rate", "nan"), "found nan; must be from"),
        (("teacher", "record", "auto", "--out", "t.npz", "--seed", "-1"), "--seed: found -1"),
    ],
)
def test_what_the_user_can_mend_is_one_message(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("nasdistill: ") and words in result.err
    assert list(tmp_path.iterdir()) == []


def _raising(error: BaseException) -> Any:
    def search(recipe: Recipe, **others: Any) -> Any:
        raise error

    return search


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "No space left on device: x"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space left"),
    ],
)
def test_a_full_disk_is_one_message(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "search", _raising(error))
    result = _run("search")
    assert (result.code, result.out) == (1, "")
    assert words in result.err and result.err.count("\n") == 1


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "search", _raising(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        _run("search")
    assert disk_problem(OSError(errno.ENOENT, "No such file")) is None


def test_disk_problem_is_found_below() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("writer failed") from error
    except RuntimeError as error:
        assert disk_problem(error) == "No space left on device"


NAMES = (
    "x" * 201,
    "é" * 101,
    "a\nb",
    "a\x1b[31mb",
    "a\u202eb",
    "../up",
    "a/b",
    ".hidden",
    "..",
    "",
)
"""That no study can have."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "command", ["search --study", "resume", "distill", "report", "export", "audit", "tune"]
)
def test_a_name_that_no_study_can_have(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "recipe.yaml").touch()
    (tmp_path / "studies").mkdir()
    result = _run(*command.split(), name, *(["1"] if command == "export" else []))
    assert (result.code, result.out) == (2, "")
    allowed = "--study: found" if command.startswith("search") else "no name of a study; allowed"
    assert result.err.startswith("nasdistill: ") and allowed in result.err, result.err
    assert result.err.count("\n") == 1 and len(result.err) < 300
    assert list((tmp_path / "studies").iterdir()) == []


def test_finals_of_a_study_of_an_impossible_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("profile", "evaluate"):
        result = _run(command, f"{'x' * 201}/1")
        assert result.code == 2 and "no name of a study" in result.err
        result = _run(command, f"{'x' * 300}/1")
        assert result.code == 1 and result.err.startswith("nasdistill: a path is too long: xxx")


def test_a_batch_that_memory_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = SearchSpace.load("mobile")
    Path("x.json").write_text(space.random(random.Random(0)).to_json())
    result = _run("profile", "x.json", "--batch", "16384", "--size", "1024")
    assert (result.code, result.out) == (2, "")
    assert re.search(r"--batch: found 16384; takes at least [\d,.]+ GB, and [\d.]+ GB", result.err)


def test_spaces() -> None:
    names = {row["name"] for row in json.loads(_run("spaces", "--json").out)}
    assert {"mobile", "resnet", "vit", "mlp"} <= names
    text = _run("spaces").out
    assert all(re.search(rf"^{name} +\w", text, re.MULTILINE) for name in names)


def test_a_space_shows_tree_size_and_spread() -> None:
    figures = json.loads(_run("spaces", "mlp", "--size", "8", "--json").out)
    for key in ("params", "macs"):
        row = list(figures[key].values())
        assert list(figures[key]) == ["min", "q1", "median", "q3", "max"]
        assert row == sorted(row) and row[0] > 0
    assert figures["samples"] == 200 and figures["architectures"] > 200
    text = _run("spaces", "mlp", "--size", "8").out
    assert "activation: " in text and f"architectures: {figures['architectures']:,}" in text
    assert "spread over 200 samples at 1x8x8, 10 classes" in text


def test_a_space_of_large_pictures(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    tree = "{activation: relu, dropout: 0.0, layers: {choice: {one: {widths: [{int: [%s]}]}}}}"
    text = f"name: own\nfamily: mlp\nparameters: {tree}\n" % "1, 4"
    own.write_text(text + f"large: {{parameters: {tree}}}\n" % "5, 6")
    for size, count in (("95", 4), ("96", 2)):
        figures = json.loads(_run("spaces", str(own), "--image-size", size, "--json").out)
        assert figures["architectures"] == count
        least = int(size) ** 2 * (1 if count == 4 else 5)
        assert least < figures["params"]["min"] < 2 * least


def test_a_space_that_is_made_from_a_net_shows_what_is_cut() -> None:
    arguments = ("spaces", "pruned", "--teacher", "shipped")
    figures = json.loads(_run(*arguments, "--json").out)
    cuts = {cut["name"]: (cut["least"], cut["most"], cut["whole"]) for cut in figures["cuts"]}
    assert cuts["stages.0.outer"] == (8, 32, 32)  # the shipped teacher's stem has 32 channels
    assert cuts["stages.2.depth"] == (1, 2, 2)
    assert figures["tree"]["parameters"]["base"]["family"] == "resnet"
    assert figures["params"]["max"] < 1_000_000
    text = _run(*arguments).out
    assert re.search(r"stages.0.outer +8 to 32 of 32 +\(stem.0.0\)", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pruned",), "is made from a net: name one with --teacher"),
        (("pruned", "--teacher", "table:a.npz"), "has no net that students could be cut from"),
        (("mlp", "--teacher", "shipped"), "the space 'mlp' is not made from a net"),
    ],
)
def test_a_net_where_none_is_needed_and_none_where_one_is(
    arguments: tuple[str, ...], message: str
) -> None:
    result = _run("spaces", *arguments)
    assert result.code == 2
    assert message in " ".join(result.err.split())


def test_studies_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no studies here yet" in _run("studies").out
    assert json.loads(_run("studies", "--json").out) == []


def test_display_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from nasdistill.cli.console import console

    front = ((3, 0.91, 84_200.0), (1, 0.88, 21_000.0))
    with Display(console()) as display:
        display(Event("stage", "searching: 24 trials", stage="search"))
        for done in range(5):
            display(Event("progress", "rung 0", "search", trial=3, rung=0, done=done, total=5))
        display(Event("rung", "score 0.850", "search", trial=3, rung=0))
        display(
            Event("trial", "complete", "search", trial=3, rung=2, done=4, total=24, front=front)
        )
        display(Event("warning", "the [bold]teacher[/bold] is overfitted"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "trial   3, rung 0: score 0.850" in lines[1]
    assert "4/24; ETA " in lines[2] and "front: 0.910 @ 84.2k, 0.880 @ 21k" in lines[2]
    assert "warning: the [bold]teacher[/bold] is overfitted" in lines[3]


def test_display_without_a_terminal_gives_a_sign_of_life(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nasdistill.cli import display as module
    from nasdistill.cli.console import console

    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    with Display(console()) as display:
        display(
            Event(
                "progress",
                "epoch 2 of 30, loss 1.203",
                "teacher",
                done=5_000,
                total=75_000,
                images_per_second=412.0,
                eta_seconds=170.0,
            )
        )
    line = capsys.readouterr().out
    assert "teacher: epoch 2 of 30, loss 1.203, 412 images/s, 5,000 of 75,000 images" in line
    assert "ETA 3 min" in line


def test_display_in_short() -> None:
    assert [short_duration(seconds) for seconds in (5.4, 99.4, 170)] == ["5 s", "99 s", "3 min"]
    front = [(0, 0.5 + i / 100, params) for i, params in enumerate((999.0, 84_200.0, 2e9))]
    assert describe_front(front) == "0.520 @ 2G, 0.510 @ 84.2k, 0.500 @ 999"
    assert describe_front([*front, *front]).endswith(", …")
    assert describe_front(()) == "empty"
