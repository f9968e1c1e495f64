"""The results of a study, read from its storage and folder. Imports no torch."""

from nasdistill.common.events import Emit, Event
from nasdistill.results.loading import (
    candidate_of,
    final_folders,
    load_finals,
    load_study,
    study_names,
)
from nasdistill.results.records import (
    COUNTED,
    Candidate,
    Final,
    RungScore,
    State,
    StudyRecord,
    candidates_frame,
)
from nasdistill.results.storage import (
    STORAGE_FILE,
    check_writable,
    is_same_storage,
    no_study_in,
    noted_storage,
    open_storage,
    storage_errors,
    storage_of,
    storage_problem,
    storage_url,
    study_in,
)

__all__ = [
    "COUNTED",
    "STORAGE_FILE",
    "Candidate",
    "Emit",
    "Event",
    "Final",
    "RungScore",
    "State",
    "StudyRecord",
    "candidate_of",
    "candidates_frame",
    "check_writable",
    "final_folders",
    "is_same_storage",
    "load_finals",
    "load_study",
    "no_study_in",
    "noted_storage",
    "open_storage",
    "storage_errors",
    "storage_of",
    "storage_problem",
    "storage_url",
    "study_in",
    "study_names",
]
