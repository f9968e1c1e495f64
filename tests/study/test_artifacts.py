from __future__ import annotations

from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta

from nasdistill.recipe import load_recipe
from nasdistill.study import Study
from nasdistill.study.artifacts import FOLDER, attach


def test_files_are_attached_once_and_follow_what_is_made_again(here: Path) -> None:
    study = Study.open(load_recipe("recipe.yaml", {}), Path("studies"), "nasdistill search")
    card, model = here / "README.md", here / "model.onnx"
    card.write_text("# A card")
    model.write_bytes(b"\x08\x0a")
    files = {"1-README.md": card, "1-model.onnx": model}
    attach(study, files)
    attach(study, files)
    (name,) = optuna.get_all_study_names(study.url)
    in_optuna = optuna.load_study(study_name=name, storage=study.url)

    def content() -> dict[str, bytes]:
        store = FileSystemArtifactStore(study.folder / FOLDER)
        for meta in get_all_artifact_meta(in_optuna):
            download_artifact(
                artifact_store=store,
                artifact_id=meta.artifact_id,
                file_path=str(here / "got" / meta.filename),
            )
        return {path.name: path.read_bytes() for path in (here / "got").iterdir()}

    (here / "got").mkdir()
    assert len(get_all_artifact_meta(in_optuna)) == 2
    assert content() == {"1-README.md": b"# A card", "1-model.onnx": b"\x08\x0a"}
    card.write_text("# Another")
    attach(study, files)
    assert len(get_all_artifact_meta(in_optuna)) == 2
    for path in (here / "got").iterdir():
        path.unlink()
    assert content() == {"1-README.md": b"# Another", "1-model.onnx": b"\x08\x0a"}
