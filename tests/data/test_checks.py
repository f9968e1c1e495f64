"""What is said of data, or refused, before anything is trained on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_helpers import fill, lengths, load, refused, write_npz
from PIL import Image

from nasdistill.common.events import Event

RNG = np.random.default_rng(5)


def noise(count: int, channels: int | None = None) -> np.ndarray:
    shape = (count, 16, 16) if channels is None else (count, 16, 16, channels)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def enough(count: int = 600) -> dict[str, np.ndarray]:
    return {"images": noise(count), "labels": np.arange(count) % 3}


def test_nothing_is_said_of_data_without_a_fault(tmp_path: Path) -> None:
    tests = {"test_images": noise(60), "test_labels": np.arange(60) % 3}
    assert load(write_npz(tmp_path / "a.npz", **enough(), **tests)).notes == ()


def test_uneven_classes_are_said_with_what_to_do(tmp_path: Path) -> None:
    images, names = noise(1000), np.array(["ok", "broken"])
    labels = np.array([0] * 970 + [1] * 30)
    data = load(write_npz(tmp_path / "a.npz", images=images, labels=labels, classes=names))
    train, score, _, test = (
        np.bincount(part.labels.numpy(), minlength=2)
        for part in (data.train, data.score, data.audit, data.test)
    )
    (note,) = data.notes
    assert f"of {train.sum():,} training examples 'ok' has {train[0]:,}" in note
    assert f"'broken' {train[1]} ({train[1] / train.sum():.1%}; {score[1]} to score by)" in note
    assert f"right on {test[0] / test.sum():.1%} of the test split" in note
    assert "--score balanced-accuracy" in note and "--sampling balanced" in note


def test_classes_without_examples_are_named(tmp_path: Path) -> None:
    parts = {"test_images": noise(60), "test_labels": np.arange(60) % 2 * 2}
    parts |= {"validation_images": noise(120), "validation_labels": np.arange(120) % 2}
    # One example of class 2 is left to validate on: it goes to the score half.
    parts["validation_labels"][0] = 2
    data = load(write_npz(tmp_path / "a.npz", **enough(), **parts))
    assert 2 in data.score.labels and 2 not in data.audit.labels
    assert data.notes == (
        "the audit half of validation has no examples of '2': its figures say nothing of them",
        "the test split has no examples of '1': its figures say nothing of them",
    )


def test_pictures_that_are_learned_and_tested_are_counted(tmp_path: Path) -> None:
    whole = enough()
    tests = {"test_images": noise(60), "test_labels": np.arange(60) % 3}
    tests |= {"validation_images": noise(120), "validation_labels": np.arange(120) % 3}
    tests["test_images"][:7] = whole["images"][10:17]
    tests["validation_images"][5] = whole["images"][10]
    tests["validation_images"][9] = tests["test_images"][30]
    notes = load(write_npz(tmp_path / "a.npz", **whole, **tests)).notes
    assert len(notes) == 3
    assert notes[0].startswith("1 of 120 validation pictures are in the training split, too")
    assert notes[1].startswith("7 of 60 test pictures are in the training split, too (the first is")
    assert " 10 there)" in notes[1] and notes[2].startswith("2 of 60 test pictures are in the val")


def test_the_same_file_in_training_and_test_is_found_without_decoding(tmp_path: Path) -> None:
    for part, count in (("train", 40), ("val", 50), ("test", 50)):
        for name in "ab":
            fill(tmp_path / part / name, count)
    first = sorted((tmp_path / "train" / "a").iterdir())[0]
    (tmp_path / "test" / "a" / "copy.png").write_bytes(first.read_bytes())
    for limit in (0, 4 << 30):  # streamed, and decoded at once
        data = load(f"folder:{tmp_path}", resident_limit=limit, image_size=96)
        assert "1 of 101 test pictures are in the training split, too" in " ".join(data.notes)
        assert f"train/a/{first.name} there" in " ".join(data.notes)


def test_a_small_folder_keeps_enough_to_judge_by_and_is_told_how_little_that_is(
    tmp_path: Path,
) -> None:
    for name in ("a", "bb"):  # of other lengths, so that the noise is another
        fill(tmp_path / name, 40)
    data = load(f"folder:{tmp_path}")
    # A quarter of each class for the test, a third of the rest for validation, in halves.
    assert lengths(data) == [40, 10, 10, 20]
    (note,) = data.notes
    assert note.startswith("few pictures: 40 to learn from, 10 to score students by, 10 to choose")
    assert "9 right of 10 has a 95 % interval from 60% to 98%" in note


@pytest.mark.parametrize(("count", "classes"), [(720, 3), (720, 2), (5000, 50)])
def test_splits_of_data_that_are_large_enough_stay_as_they_were(
    tmp_path: Path, count: int, classes: int
) -> None:
    labels = np.arange(count) % classes
    data = load(write_npz(tmp_path / "a.npz", images=noise(count), labels=labels))
    each = count // classes
    test = round(each / 6)
    validation = round((each - test) / 6)
    train, score, audit, tested = lengths(data)
    assert tested == classes * test and score + audit == classes * validation


def test_training_pictures_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    black = {"images": np.zeros((30, 16, 16), np.uint8)}
    message = refused(write_npz(tmp_path / "a.npz", **black))
    assert "all 18 training pictures have the same value in every pixel" in message
    same = {"images": np.repeat(noise(1), 30, axis=0)}
    assert "pictures are the same picture" in refused(write_npz(tmp_path / "b.npz", **same))
    for name in "ab":
        (tmp_path / "c" / name).mkdir(parents=True)
        for number in range(20):
            picture = Image.new("L", (20, 20), 0)
            picture.save(tmp_path / "c" / name / f"{number}.png", pnginfo=None)
    assert "first is a/" in refused(f"folder:{tmp_path / 'c'}")


def test_a_channel_without_variance_is_said_and_not_scaled(tmp_path: Path) -> None:
    whole, tests = enough(), {"test_images": noise(60, 3), "test_labels": np.arange(60) % 3}
    images = noise(600, 3)
    images[..., 1] = 51
    images[:60] = 51
    whole["images"] = images
    data = load(write_npz(tmp_path / "a.npz", **whole, **tests))
    assert data.std[1] == 1.0 and data.mean[1] == pytest.approx(0.2) and data.std[0] < 0.5
    assert any("channel 2 of 3 has one value in all training" in note for note in data.notes)
    blank = (data.train.images == 51).all(dim=(1, 2, 3)).sum()  # type: ignore[attr-defined]
    assert any(n.startswith(f"{blank} of 501 training pictures are of one") for n in data.notes)


def test_notes_are_told_with_the_name_of_the_data(tmp_path: Path) -> None:
    spec = write_npz(tmp_path / "all.npz")
    events: list[Event] = []
    load(spec).tell_notes(events.append)
    assert [(e.kind, e.text.partition(": few pictures")[0]) for e in events] == [
        ("warning", f"data {spec}")
    ]
