"""Folders of images."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import fill, lengths, load, pixels, refused
from PIL import Image

from nasdistill.common import events
from nasdistill.common.events import Event
from nasdistill.common.types import Input
from nasdistill.data import ResidentSplit, StreamingSplit


def test_folder_with_train_and_test(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name, 12)
        fill(tmp_path / "test" / name, 3)
    data = load(f"folder:{tmp_path}")
    assert lengths(data) == [16, 4, 4, 6]
    assert data.classes == ("cat", "dog") and data.input == Input(3, 20, 20)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_folder_with_all_three(tmp_path: Path, name: str) -> None:
    for label in ("cat", "dog"):
        for part, count in (("train", 6), (name, 4), ("test", 3)):
            fill(tmp_path / part / label, count, mode="L")
    data = load(f"folder:{tmp_path}")
    assert lengths(data) == [12, 4, 4, 6] and data.input == Input(1, 20, 20)


def test_flat_folder_is_split_and_stratified(tmp_path: Path) -> None:
    for name in ("cat", "dog", "owl"):
        fill(tmp_path / name, 36)
    (tmp_path / ".cache").mkdir()
    data = load(f"folder:{tmp_path}", image_size=24)
    assert lengths(data) == [54, 15, 12, 27]
    for part in (data.train, data.score, data.audit, data.test):
        counts = torch.bincount(part.labels, minlength=3)
        assert len(set(counts.tolist())) == 1
    assert data.input == Input(3, 24, 24)


@pytest.mark.parametrize("image_size", [None, 48, 100])
def test_large_folder_resident_and_streaming_alike(tmp_path: Path, image_size: int | None) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 8, (72, 80))
    kept, streamed = (
        load(f"folder:{tmp_path}", image_size=image_size, resident_limit=limit)
        for limit in (1 << 30, 1)
    )
    resident = image_size == 48  # Small ones always are.
    assert isinstance(kept.train, ResidentSplit)
    assert isinstance(streamed.train, ResidentSplit if resident else StreamingSplit)
    assert kept.views == streamed.views and kept.views.kind == ("shift" if resident else "crop")
    assert kept.mean == streamed.mean and kept.std == streamed.std
    size = kept.input.size
    assert size == streamed.input.size == ((72, 80) if image_size is None else (image_size,) * 2)
    for view in (None, 4):
        shown = [pixels(data.train, [0, 3, 1], view, size) for data in (kept, streamed)]
        assert torch.equal(*shown)


def test_photos_of_mixed_sizes_come_to_224_and_stay_if_they_fit(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 3, (90, 130))
        fill(tmp_path / name, 3, (300, 70))
    kept, streamed = load(f"folder:{tmp_path}"), load(f"folder:{tmp_path}", resident_limit=1)
    assert kept.input == streamed.input == Input(3, 224, 224) and kept.views.kind == "crop"
    assert isinstance(kept.train, ResidentSplit) and isinstance(streamed.train, StreamingSplit)
    for view in (None, 2):
        shown = [pixels(data.train, [0, 5, 1], view, (224, 224)) for data in (kept, streamed)]
        assert torch.equal(*shown)


def test_a_photo_is_turned_upright_and_its_middle_is_kept(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(6):
            wide = np.zeros((80, 160, 3), np.uint8)
            wide[:, 40:120] = 60 if name == "cat" else 180
            photo, exif = Image.fromarray(wide), Image.Exif()
            if index % 2:
                photo, exif[0x0112] = photo.transpose(Image.Transpose.ROTATE_90), 6
            photo.save(tmp_path / name / f"{index}.png", exif=exif)
    data = load(f"folder:{tmp_path}")
    assert data.input == Input(3, 80, 160)
    data = load(f"folder:{tmp_path}", image_size=80)
    shown = pixels(data.train, list(range(len(data.train))), None, (80, 80))
    assert [image.unique().tolist() for image in shown] == [
        [60] if label == 0 else [180] for label in data.train.labels.tolist()
    ]


def test_deep_grey_images_keep_their_high_bits(tmp_path: Path) -> None:
    for name, value in (("dark", 0x2100), ("light", 0xF0FF)):
        (tmp_path / name).mkdir()
        for index in range(4):
            deep = np.full((16, 16), value, np.uint16)
            Image.fromarray(deep).save(tmp_path / name / f"{index}.png")
    data = load(f"folder:{tmp_path}")
    assert data.input == Input(1, 16, 16)
    assert pixels(data.train, [0, 1], None, (16, 16)).unique().tolist() == [0x21, 0xF0]


@pytest.mark.parametrize("limit", [1 << 30, 1])
def test_fingerprint_follows_the_content(tmp_path: Path, limit: int) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 5, (72, 72))
    first, again = (load(f"folder:{tmp_path}", resident_limit=limit) for _ in range(2))
    path = tmp_path / "dog" / "RGB72x72_0.png"
    pixel = np.asarray(Image.open(path)).copy()
    pixel[0, 0, 0] ^= 1
    Image.fromarray(pixel).save(path)
    changed = load(f"folder:{tmp_path}", resident_limit=limit)
    assert first.fingerprint == again.fingerprint != changed.fingerprint


@pytest.mark.parametrize(
    ("limit", "then"), [(1 << 30, "preparing images"), (1, "measuring colours")]
)
def test_reading_many_pictures_tells_how_far_it_is(
    tmp_path: Path, limit: int, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_list: list[Event] = []
    for name in ("cat", "dog"):
        fill(tmp_path / name, 12, (80, 70))
    monkeypatch.setattr(events, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(events, "PAUSE_SECONDS", 0.0)
    load(f"folder:{tmp_path}", resident_limit=limit, image_size=80, emit=event_list.append)
    reading = [(e.done, e.total) for e in event_list if e.text == "reading images"]
    assert reading == [(done, 24) for done in range(1, 25)]
    last = [e for e in event_list if e.text == then][-1]
    assert last.done == last.total > 0 and last.stage == "data"


def test_bad_folders(tmp_path: Path) -> None:
    assert "is not a folder" in refused(f"folder:{tmp_path / 'none'}")
    assert "no class folders" in refused(f"folder:{tmp_path}")
    (tmp_path / "cat").mkdir()
    assert "no images (.jpg" in refused(f"folder:{tmp_path}")
    fill(tmp_path / "cat", 8)
    assert "1 class; at least 2 are needed" in refused(f"folder:{tmp_path}")
    (tmp_path / "dog").mkdir()
    assert "too few train examples: 'dog' has 0" in refused(f"folder:{tmp_path}")
    fill(tmp_path / "dog", 1)
    assert "'dog' has 1; each class needs at least 4" in refused(f"folder:{tmp_path}")
    (tmp_path / "file").touch()
    assert "is a file, not a folder" in refused(f"folder:{tmp_path / 'file'}")


def test_test_without_train(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "test" / name, 4)
    message = refused(f"folder:{tmp_path}", may_lack_training=True)
    assert "test/ but no train/" in message and "both val/ and test/ are needed" in message
    fill(tmp_path / "val" / "cat", 4)
    message = refused(f"folder:{tmp_path}", may_lack_training=True)
    assert "class 'dog' is not in the validation folder" in message
    assert "an empty folder of that name will do" in message


@pytest.mark.parametrize("limit", [4 << 30, 0])  # decoded at once, and streamed
def test_validation_and_test_alone_are_enough_where_nothing_is_trained(
    tmp_path: Path, limit: int
) -> None:
    for part, count in (("val", 8), ("test", 5)):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, count, (70, 70))
    spec, free = f"folder:{tmp_path}", {"may_lack_training": True, "resident_limit": limit}
    assert refused(spec) == (
        f"data {spec!r}: no train split. Put images into train/<class>/, or search with "
        "--synthetic IMAGES, such as --synthetic 2560: students then learn from images made from "
        "the teacher alone"
    )
    absent = load(spec, **free)
    assert lengths(absent) == [0, 8, 8, 10] and absent.classes == ("cat", "dog")
    assert isinstance(absent.score, StreamingSplit if limit == 0 else ResidentSplit)
    assert not absent.has_training and absent.sample is absent.score and absent.names == ()
    (note,) = absent.notes
    assert note.startswith("few pictures: none to learn from, 8 to score students by")
    for folder in ("train", "train/cat", "train/dog"):
        (tmp_path / folder).mkdir()
        if folder != "train/cat":  # classes are then those of train/, all of them
            empty = load(spec, **free)
            assert (empty.fingerprint, empty.notes) == (absent.fingerprint, absent.notes)
    (tmp_path / "train/dog/1.raw").touch()
    assert "no images (.jpg" in refused(spec, **free)
    fill(tmp_path / "train" / "cat", 3, (70, 70))
    assert "too few train examples: 'dog' has 0" in refused(spec, **free)


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 4)
        (tmp_path / name / "._0.png").write_bytes(b"junk of a file manager")
    assert sum(lengths(load(f"folder:{tmp_path}"))) == 8


def test_class_that_training_lacks(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name, 6)
    fill(tmp_path / "test" / "owl", 2)
    assert "class 'owl' is not in the training folder" in refused(f"folder:{tmp_path}")


def test_unreadable_images_are_named_counted_and_skipped_on_request(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 9)
    whole = next(iter((tmp_path / "dog").iterdir())).read_bytes()
    (tmp_path / "cat" / "broken.png").write_bytes(b"not an image")
    (tmp_path / "dog" / "short.png").write_bytes(whole[: len(whole) // 2])
    message = refused(f"folder:{tmp_path}")
    assert message.startswith("2 unreadable image(s)") and "--skip-unreadable" in message
    assert "broken.png" in message and "short.png" in message
    data = load(f"folder:{tmp_path}", skip_unreadable=True)
    assert sum(lengths(data)) == 18
    assert data.notes[0] == "unreadable images are left out: 2"


def test_split_whose_every_image_is_unreadable(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name, 6)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat" / "broken.png").write_bytes(b"")
    assert "no readable image in test" in refused(f"folder:{tmp_path}", skip_unreadable=True)


def test_mixed_sizes_and_channels(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 9)
    fill(tmp_path / "dog", 2, (24, 20))
    message = refused(f"folder:{tmp_path}")
    assert "mixed sizes" in message and "18 of 20x20" in message and "2 of 24x20" in message
    assert load(f"folder:{tmp_path}", image_size=20).input == Input(3, 20, 20)
    fill(tmp_path / "cat", 3, mode="L")
    message = refused(f"folder:{tmp_path}", image_size=20)
    assert "3 of 20x20 with 1 channel(s), e.g. " in message and "--channels 3" in message
    assert str(tmp_path / "cat" / "L20x20_0.png") in message and "image-size" not in message
    for channels in (1, 3):
        data = load(f"folder:{tmp_path}", image_size=20, channels=channels)
        assert data.input == Input(channels, 20, 20) and sum(lengths(data)) == 23
    assert "allowed are 1 (grey) and 3 (RGB)" in refused(f"folder:{tmp_path}", channels=4)


def test_every_suffix_that_pillow_opens_counts_and_the_rest_is_told(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 12)
        for index, path in enumerate(sorted((tmp_path / name).iterdir())):
            if index % 4:
                image = Image.open(path).copy()
                path.unlink()
                suffix = (".jfif", ".JPE", ".Webp")[index % 4 - 1]
                form = "WEBP" if suffix == ".Webp" else "JPEG"
                image.save(path.with_suffix(suffix), form)
    assert not any("left out" in note for note in load(f"folder:{tmp_path}").notes)
    shutil.copy(tmp_path / "cat" / "RGB20x20_0.png", tmp_path / "cat" / "bare")
    shutil.copy(tmp_path / "cat" / "RGB20x20_0.png", tmp_path / "dog" / "bare")
    for name in ("Notes.TXT", "clip.mpg", "\udcff.\udcfe", ".hidden"):
        (tmp_path / "dog" / name).touch()
    (tmp_path / "stray.png").touch()
    (tmp_path / "labels.csv").touch()
    data = load(f"folder:{tmp_path}")
    assert sum(lengths(data)) == 24
    left_out, outside = data.notes[:2]
    assert "5 files are left out" in left_out
    assert left_out.count("2 (none), 1 .mpg, 1 .txt, 1 .\\udcfe.") == 1
    assert "1 file is left out, images in no class folder: 1 .png" in outside


def test_a_class_of_which_all_is_left_out_is_explained(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 6)
    for path in (tmp_path / "dog").iterdir():
        path.rename(path.with_suffix(".raw"))
    assert "'dog' has 0" in refused(f"folder:{tmp_path}")
    assert "6 files are left out" in refused(f"folder:{tmp_path}")
    shutil.rmtree(tmp_path / "cat")
    assert "in any class folder" in (message := refused(f"folder:{tmp_path}"))
    assert "6 .raw" in message


def test_links_inside_class_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    root, pool = tmp_path / "data", tmp_path / "pool"
    for name in ("cat", "dog"):
        fill(root / name / "home", 6)
        fill(pool / name, 6, (20, 20), "RGB")
        (root / name / "more").symlink_to(pool / name)  # a folder elsewhere
        (root / name / "again").symlink_to(root / name / "home")  # one that is there already
        (root / name / "up").symlink_to("..")
    (pool / "dog" / "self").symlink_to(".")
    (pool / "dog" / "all").symlink_to(root)
    fill(tmp_path / "single", 1)
    (root / "dog" / "linked.png").symlink_to(tmp_path / "single" / "RGB20x20_0.png")
    (root / "loop").symlink_to(root)
    data = load(f"folder:{root}")
    assert data.classes == ("cat", "dog") and sum(lengths(data)) == 25
    assert sum(name.startswith("dog/") for name in data.names) == 7  # of 13
    assert not any("again" in name for name in data.names)
    assert any(name.startswith("dog/more/") for name in data.names)
    assert data.notes[0] == "links that lead to a folder they lie in are not followed: 5"


def test_what_is_no_file_and_what_is_a_broken_link(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 6)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "folder.png").mkdir()
    assert "1 (no regular file)" in load(f"folder:{tmp_path}").notes[0]
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere")
    assert "1 unreadable image(s)" in (message := refused(f"folder:{tmp_path}"))
    assert "gone.png" in message


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("Training", "Val", "Testing"),
        ("TRAIN", "dev", "test_set"),
        ("training_set", "Validation", "Test"),
        ("train-data", "eval", "TEST"),
    ],
)
def test_split_folders_by_their_usual_names(
    tmp_path: Path, train: str, validation: str, test: str
) -> None:
    for label in ("cat", "dog"):
        for part, count in ((train, 6), (validation, 4), (test, 3)):
            fill(tmp_path / "photos" / part / label, count)
    (tmp_path / "photos" / "masks").mkdir()
    data = load(f"folder:{tmp_path / 'photos'}")
    assert lengths(data) == [12, 4, 4, 6] and data.classes == ("cat", "dog")
    assert data.notes[0] == "left out beside the splits' folders: 'masks'"
    outer = load(f"folder:{tmp_path}")
    assert lengths(outer) == [12, 4, 4, 6] and outer.fingerprint == data.fingerprint
    assert outer.notes[0] == (f"the class folders are read from {tmp_path / 'photos' / train}")


def test_a_split_whose_classes_lie_one_level_deeper(tmp_path: Path) -> None:
    for part, count in (("training_set", 6), ("test_set", 3)):
        for label in ("cat", "dog"):
            fill(tmp_path / part / part / label, count)
    assert sum(lengths(load(f"folder:{tmp_path}"))) == 18
    shutil.rmtree(tmp_path / "test_set" / "test_set")
    fill(tmp_path / "test_set" / "dog" / "black", 4)  # one class only, with folders inside
    assert lengths(load(f"folder:{tmp_path}"))[3] == 4


def test_two_folders_of_one_split_are_both_named(tmp_path: Path) -> None:
    for part in ("train", "val", "Dev"):
        for label in ("cat", "dog"):
            fill(tmp_path / part / label, 4)
    assert "Dev/ and val/ both mean the validation split" in refused(f"folder:{tmp_path}")


def test_class_folders_that_are_named_like_splits_stop(tmp_path: Path) -> None:
    for part in ("Train", "test"):
        fill(tmp_path / "bare" / part, 6)
        fill(tmp_path / "deep" / "train" / part, 6)
        for label in ("cat", "dog"):
            fill(tmp_path / "words" / f"seg_{part}" / label, 6)
            fill(tmp_path / "mixed" / "test" / label, 6)
        fill(tmp_path / "mixed" / "cat", 6)
    assert "no class folders in Train/, test/" in refused(f"folder:{tmp_path / 'bare'}")
    message = refused(f"folder:{tmp_path / 'deep'}")
    assert "the class folders are all named like splits: 'Train', 'test'" in message
    message = refused(f"folder:{tmp_path / 'words'}")
    assert "the class folders are all named like splits: 'seg_Train', 'seg_test'" in message
    assert "test/ beside cat/, which name no split" in refused(f"folder:{tmp_path / 'mixed'}")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for label in ("bus", "train", "test tube"):
        fill(tmp_path / label, 6)
    assert load(f"folder:{tmp_path}").classes == ("bus", "test tube", "train")


def test_classes_of_a_split_may_be_spelt_otherwise(tmp_path: Path) -> None:
    for name in ("Café", "T-shirt top"):
        fill(tmp_path / "train" / name, 6)
    fill(tmp_path / "test" / unicodedata.normalize("NFD", "Café"), 2)
    fill(tmp_path / "test" / "t-shirt_top", 3)
    data = load(f"folder:{tmp_path}")
    assert data.classes == ("Café", "T-shirt top")
    assert torch.bincount(data.test.labels).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("name", "fault"),
    [("b\udcff", "'b\\udcff' is not UTF-8"), ("b\x1b[2J", "'b\\x1b[2J' holds a control")],
)
def test_class_names_that_cannot_be_written_are_refused(
    tmp_path: Path, name: str, fault: str
) -> None:
    for label in ("a", name):
        (tmp_path / label).mkdir()
        (tmp_path / label / "broken.png").touch()  # refused before it is read
    assert f"the class name {fault}" in refused(f"folder:{tmp_path}")
