"""The database transactions that the calling thread has open, and work that waits for their end.

Django tells of commits (`on_commit`), but not of rollbacks. Every way out of an outermost `atomic` block passes through
its connection, though: `set_autocommit`, or `close` where the database went away; and with autocommit off, `commit` and
`rollback`. A release that waits listens there.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.db.backends.signals import connection_created

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

_BY_HAND = ("commit", "rollback")
_WAYS_OUT = ("set_autocommit", "close", "savepoint_commit", "savepoint_rollback", *_BY_HAND)
"""The savepoints are for tests: within a `TestCase`, all blocks but its own are savepoints."""


class _Seen(threading.local):
    connections: tuple[BaseDatabaseWrapper, ...] = ()


_seen = _Seen()
"""The connections that this thread has opened, since this package was imported."""


def _note(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    if connection not in _seen.connections:
        _seen.connections += (connection,)


connection_created.connect(_note)


def is_one_open() -> bool:
    """Is this thread inside of an `atomic` block, as far as we have seen?

    On the way of every release, and so quicker than `open_here`, which misses nothing.
    """
    for connection in _seen.connections:  # a generator would cost as much as all the rest
        if (connection.in_atomic_block or not connection.autocommit) and _is_open(connection):
            return True
    return False


def open_here() -> list[BaseDatabaseWrapper]:
    """The connections of this thread that are inside of an `atomic` block; those of a `TestCase` are not counted.

    With autocommit off, also those whose transaction the database has begun by itself.
    """
    return [connection for connection in connections.all(initialized_only=True) if _is_open(connection)]


def _is_open(connection: BaseDatabaseWrapper) -> bool:
    # With autocommit off, not even the end of the outermost block ends the transaction.
    by_hand = not (connection.in_atomic_block and (connection.atomic_blocks or connection.commit_on_exit))
    if by_hand:
        return not connection.autocommit and _has_begun(connection.connection)
    return (
        not connection.closed_in_transaction  # the server has rolled it back
        and any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    )


def _has_begun(driver: Any) -> bool:
    """With autocommit off: has there been a statement since the last COMMIT? Not each driver tells; then: yes."""
    if driver is None:
        return False
    if hasattr(driver, "in_transaction"):  # sqlite3
        return bool(driver.in_transaction)
    status = getattr(getattr(driver, "info", None), "transaction_status", None)  # psycopg
    return bool(status is None or status)


def when_over(transactions: Sequence[BaseDatabaseWrapper], work: Callable[[], None]) -> None:
    """Do this work, in this thread, as soon as all these transactions have been committed or rolled back."""
    left = len(transactions)

    def one_is_over() -> None:
        nonlocal left
        left -= 1
        if not left:
            work()

    for connection in transactions:
        ending = vars(connection).get("locksmith_ending") or _Ending(connection)
        ending.work.append(one_is_over)


class _Ending:
    """Listens for the end of one connection's transaction."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        # Else the COMMIT is a part of the way out, behind which on_commit is called.
        self._by_hand = not (connection.in_atomic_block and connection.commit_on_exit)
        self.work: list[Callable[[], None]] = []
        vars(connection)["locksmith_ending"] = self
        self._ears = {name: self._listening(name, getattr(connection, name)) for name in _WAYS_OUT}
        vars(connection).update(self._ears)

    def _listening(self, name: str, way_out: Callable[..., Any]) -> Callable[..., Any]:
        def listen(*args: Any, **kwargs: Any) -> Any:
            try:
                return way_out(*args, **kwargs)
            finally:
                if name in _BY_HAND:
                    over = self._by_hand and not self._connection.in_atomic_block
                else:
                    over = not _is_open(self._connection)
                if over:
                    self._over()

        return listen

    def _over(self) -> None:
        place = vars(self._connection)
        if place.get("locksmith_ending") is self:
            del place["locksmith_ending"]
            for name, ear in self._ears.items():
                if place.get(name) is ear:  # else somebody listens on top of us, and still needs us
                    del place[name]
        work, self.work = self.work, []
        for each in work:
            each()
