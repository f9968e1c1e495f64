"""The results of a study, read from its storage and folder. Imports no torch."""

from nasdistill.common.events import Emit, Event
from nasdistill.results.loading import (
    STORAGE_FILE,
    candidate_of,
    final_folders,
    load_finals,
    load_studies,
    load_study,
    open_storage,
    read_final,
    storage_of,
    storage_url,
    study_names,
)
from nasdistill.results.records import (
    COUNTED,
    Candidate,
    DamagedStudy,
    Final,
    RungScore,
    State,
    StudyRecord,
    audit_score,
    candidates_frame,
)

__all__ = [
    "COUNTED",
    "STORAGE_FILE",
    "Candidate",
    "DamagedStudy",
    "Emit",
    "Event",
    "Final",
    "RungScore",
    "State",
    "StudyRecord",
    "audit_score",
    "candidate_of",
    "candidates_frame",
    "final_folders",
    "load_finals",
    "load_studies",
    "load_study",
    "open_storage",
    "read_final",
    "storage_of",
    "storage_url",
    "study_names",
]
