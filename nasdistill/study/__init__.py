"""The Optuna study: storage, asking, claims, leases, and what each trial says."""

from nasdistill.study.sampling import Proposal
from nasdistill.study.study import Study, architecture_of

__all__ = ["Proposal", "Study", "architecture_of"]
