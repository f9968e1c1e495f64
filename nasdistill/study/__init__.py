"""The Optuna study: storage, asking, claims, leases, and what each trial says."""

from nasdistill.study.leases import TrialEnded
from nasdistill.study.resolving import settle_space
from nasdistill.study.sampling import Proposal, Proposer, architecture_of
from nasdistill.study.study import Study

__all__ = ["Proposal", "Proposer", "Study", "TrialEnded", "architecture_of", "settle_space"]
