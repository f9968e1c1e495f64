"""Claims in a study's storage: one process of all hosts at a time, and another once it is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from nasdistill.results import keys
from nasdistill.results.keys import Key
from nasdistill.study.leases import is_of_this_host, renewing

if TYPE_CHECKING:
    from nasdistill.study.study import Study

SETTLE_SECONDS = 0.5
"""Time between writing a claim and reading it again."""
LOOK_SECONDS = 1.0
"""Time between two looks at another's claim."""

Lease = Key[dict[str, Any] | None]


@contextmanager
def claimed(study: Study, key: Lease, *, wait: bool) -> Iterator[bool]:
    """Gives True to one process, which holds the claim while the body runs.

    Args:
        study: The study.
        key: Of the claim's lease.
        wait: Whether to wait for the process that holds it; else it gives False then.
    """
    while not _take(study, key):
        if not wait:
            yield False
            return
        time.sleep(LOOK_SECONDS)
    try:
        with renewing(
            lambda: study.write(key, study._new_lease(0)), partial(study.write, key, None)
        ):
            yield True
    finally:  # Also after an error: this process may live on, in a notebook.
        study.write(key, None)


def _take(study: Study, key: Lease) -> bool:
    """Takes a claim that nobody holds: write, read again, the last write wins."""
    lease = study.read(key)
    if lease is not None and not study._abandoned(lease):
        return False
    study.write(key, study._new_lease(0))
    time.sleep(SETTLE_SECONDS)
    lease = study.read(key)
    return lease is not None and lease["worker"] == study.worker


@contextmanager
def finals_lease(study: Study) -> Iterator[bool]:
    """Gives True to the one process that may do the finals."""
    if finals_held(study):
        yield False
        return
    with claimed(study, keys.FINALS_LEASE, wait=False) as leased:
        yield leased


def finals_held(study: Study) -> bool:
    """Whether a living process makes the finals; one elsewhere is given time to renew."""
    first = lease = study.read(keys.FINALS_LEASE)
    while lease is not None and not study._abandoned(lease):
        if is_of_this_host(lease) or lease != first:
            return True
        time.sleep(LOOK_SECONDS)
        lease = study.read(keys.FINALS_LEASE)
    return False
