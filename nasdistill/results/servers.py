"""Storages of servers: opened within bounded time, waited for while they are away."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, TypeVar

from nasdistill.common.errors import UserError
from nasdistill.common.types import without_password

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

Result = TypeVar("Result")

OPENING_SECONDS = 10
"""How long a server may take to answer when a storage is opened."""
AWAY_SECONDS = 300.0
"""How long a server may be away while a study is at work."""
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
"""Seconds between two attempts to reach it."""
GRPC = "grpc://"
# fmt: off
METHODS = (
    "create_new_study", "delete_study", "set_study_user_attr", "set_study_system_attr",
    "get_study_id_from_name", "get_study_name_from_id", "get_study_directions",
    "get_study_user_attrs", "get_study_system_attrs", "get_all_studies", "create_new_trial",
    "get_trial_id_from_study_id_trial_number", "get_trial", "get_all_trials",
    "set_trial_state_values", "set_trial_user_attr", "_create_new_trial", "_get_trials",
)
# fmt: on
"""Methods of storages that we call, and those with which Optuna's cache reads a database. All may
be done twice: a trial that was stored twice has the same token, and the second is withdrawn."""

PROXY_IS_CUT_OFF = ("UNAVAILABLE", "An exception is raised during the commit")
"""What the proxy's errors hold if it cannot be reached, or cannot reach its database."""

Waiting = Callable[[str], object]
"""Told in words that a server is waited for."""


def engine_options(url: str) -> dict[str, Any]:
    """How SQLAlchemy connects to a server: connections that were cut are made anew."""
    if not url.startswith("postgresql"):
        return {}
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": OPENING_SECONDS}}


def open_proxy(url: str) -> BaseStorage:
    """Opens Optuna's gRPC proxy.

    Args:
        url: `grpc://HOST:PORT`.

    Raises:
        UserError: If the URL says something else, or the extra is not installed.
        ConnectionError: If nobody answers.
    """
    address = re.fullmatch(r"grpc://([^:/@]+|\[[^\]]+\]):(\d+)/?", url)
    if address is None:
        raise UserError(
            f"the storage {without_password(url)!r}: write grpc://HOST:PORT, such as "
            "grpc://localhost:13000; the database's own URL is the proxy's to know"
        )
    try:
        import grpc  # noqa: F401 - Optuna imports it late, and names no extra of ours
    except ImportError:
        raise UserError(
            f"the storage {url!r} needs grpcio: pip install 'nasdistill[grpc]'"
        ) from None
    import warnings

    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls the proxy experimental
        storage = optuna.storages.GrpcStorageProxy(host=address[1], port=int(address[2]))
    storage.wait_server_ready(timeout=OPENING_SECONDS)
    return storage


def explanations(url: str) -> dict[tuple[str, ...], str]:
    """What is wrong with a server and what mends it, by words that errors hold."""
    server = "the database server"
    unanswered = (
        "does not answer. See that host and port are right, that the server runs and lets this "
        "machine in, then give the same command again: what is stored is kept"
    )
    driver = (
        "needs a driver that is not installed: pip install 'nasdistill[postgres]'; write "
        "postgresql+psycopg://USER@HOST/DATABASE"
        if url.startswith("postgresql")
        else "is of a kind for which no driver is installed; allowed: "
        "postgresql+psycopg://USER@HOST/DATABASE, grpc://HOST:PORT, sqlite:///FILE, journal:FILE, "
        "or what a driver of SQLAlchemy opens once it is installed"
    )
    return {
        ("failed to import db access module", "no module named", "can't load plugin"): driver,
        ("password authentication failed", "no password supplied", "authentication failed"): (
            f"refuses the user or the password: {server} does not let them in"
        ),
        ("permission denied", "insufficientprivilege", "must be owner"): (
            "may not be written by this user; its owner gives the right: "
            "GRANT USAGE, CREATE ON SCHEMA public TO the user"
        ),
        ("does not exist",): f"is not there: make the database, or the role, on {server} first",
        ("connection refused", "timeout", "timed out", "could not translate host name",
         "name or service not known", "no route to host", "failed to resolve host",
         "server closed the connection", "terminating connection", "starting up",
         "shutting down", "unavailable", "failed to connect"): unanswered,
    }  # fmt: skip


def is_away(error: BaseException) -> bool:
    """Whether an exception says that a server cannot be reached at the moment."""
    cause: BaseException | None = error
    while cause is not None:
        module, name = type(cause).__module__, type(cause).__name__
        if module.startswith("sqlalchemy") and name in ("OperationalError", "InterfaceError"):
            return True
        if module.startswith("grpc") and any(sign in str(cause) for sign in PROXY_IS_CUT_OFF):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


class Patience:
    """Waits for a server that is away, instead of ending the study.

    Args:
        url: The storage's.

    Attributes:
        tell: Told in words that it is waited for, once each time.
        away_seconds: How long, at most.
    """

    def __init__(self, url: str) -> None:
        self.tell: Waiting = lambda text: None
        self.away_seconds = AWAY_SECONDS
        self._url = url
        self._inside = threading.local()

    def over(self, storage: BaseStorage) -> None:
        """Has every method of a storage wait."""
        for name in METHODS:
            method = getattr(storage, name, None)
            if method is not None:
                setattr(storage, name, wraps(method)(partial(self._call, method)))

    def _call(self, method: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        if getattr(self._inside, "a_call", False):  # one method calls another
            return method(*arguments, **options)
        self._inside.a_call = True
        try:
            return self._repeat(partial(method, *arguments, **options))
        finally:
            self._inside.a_call = False

    def _repeat(self, call: Callable[[], Result]) -> Result:
        begun, wait = time.monotonic(), FIRST_WAIT
        where = f"the storage {without_password(self._url)!r}"
        while True:
            try:
                return call()
            except Exception as error:
                if not is_away(error):
                    raise
                if time.monotonic() - begun + wait > self.away_seconds:
                    raise UserError(
                        f"{where} has not answered for {self.away_seconds:.0f} s. Nothing that was "
                        "stored is lost: see that its server runs and can be reached, then give "
                        "the same command again, and the study goes on"
                    ) from error
                if wait == FIRST_WAIT:
                    self.tell(f"{where} does not answer; waiting for it")
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
