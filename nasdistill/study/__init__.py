"""The Optuna study: storage, asking, claims, leases, and what each trial says."""

from nasdistill.study.sampling import Proposal
from nasdistill.study.study import Study, TrialEnded, architecture_of

__all__ = ["Proposal", "Study", "TrialEnded", "architecture_of"]
