"""Files of finals as Optuna's artifacts, which optuna-dashboard shows beside the trials."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from filecmp import cmp
from pathlib import Path

from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

from nasdistill.study.study import Study

FOLDER = "artifacts"
"""Folder of a study in which the artifacts lie, by number."""


def attach(study: Study, files: Mapping[str, Path]) -> None:
    """Attaches files to a study; those that are attached as they are stay so.

    They belong to the study, not to its trials: of these, Optuna lets none that has ended be
    changed.

    Args:
        study: The study.
        files: The files, by the names that are shown.
    """
    folder, in_optuna = study.folder / FOLDER, study._study
    folder.mkdir(exist_ok=True)
    store = FileSystemArtifactStore(folder)
    attached = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(in_optuna)}
    for name, file in files.items():
        if name not in attached:
            with tempfile.TemporaryDirectory() as named:  # the name that is shown is the file's own
                link = Path(named) / name
                link.symlink_to(file.resolve())
                upload_artifact(artifact_store=store, file_path=str(link), study_or_trial=in_optuna)
        elif not _is_copy(folder / attached[name], file):  # a final that was made again
            with file.open("rb") as content:
                store.write(attached[name], content)


def _is_copy(stored: Path, file: Path) -> bool:
    return stored.is_file() and cmp(stored, file, shallow=False)
