"""Keeps the leases of live holders alive: one thread for each server, sync and async leases alike."""

from __future__ import annotations

import logging
import random
import threading
import weakref
from math import inf
from typing import TYPE_CHECKING, Protocol

from .. import clock
from ..exceptions import LockUnavailable, ServerTrouble
from ..policy import locks as lock_policy
from ..policy.sync_bridge import run_sync
from ..redis.messages import Renewal
from .clockwork import Clockwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..redis.lock_store import LockStore
    from ..redis.messages import Holding
    from ..redis.node import Node

logger = logging.getLogger("django_locksmith.renewal")

_MOST = 500
"""Leases in one exchange."""
_ALONG = 0.1
"""What is due within this share of its lease is renewed along with what is due now: fewer exchanges, fewer wake-ups."""


class Renewable(Protocol):
    """What can be renewed. Times are monotonic seconds."""

    timeout: float
    hold_until: float
    renew_at: float
    changes: int
    """Counts what its holder does to the lease, so that a renewal that was under way does not undo it."""

    @property
    def attempt(self) -> Holding:
        """What Redis knows it by."""

    def prolong(self, deadline: float, changes: int) -> None:
        """It was renewed; `changes` as it was when that was asked for."""

    def lose(self, why: str) -> None:
        """Redis does not know it any more."""


class Renewer:
    """Renews the leases of one deployment, at a third of each lease: what holds up one server holds up no other."""

    def __init__(self, store: LockStore) -> None:
        self._store = store
        self._mutex = threading.RLock()
        self._servers: dict[Node | None, _Server] = {}

    def add(self, lease: Renewable) -> None:
        """Keep it alive from now on."""
        self._server_of(lease).add(lease, clock.now() + _pause(lease.timeout))

    def remove(self, lease: Renewable) -> None:
        """Renew it no more."""
        for server in list(self._servers.values()):
            server.remove(lease)

    def end(self) -> None:
        """Renew nothing any more, and end the threads."""
        for server in list(self._servers.values()):
            server.end()

    def _server_of(self, lease: Renewable) -> _Server:
        try:
            node = self._store.transport.node_for(lease.attempt.names.lock)
        except (ServerTrouble, LockUnavailable):
            node = None  # nobody knows now; it is looked for again when the lease is due
        with self._mutex:
            server = self._servers.get(node)
            if server is None:
                server = self._servers[node] = _Server(self, node, self._store)
            return server

    def move(self, lease: Renewable, where: _Server) -> bool:
        """Hand it to the server that has its key now, if that is another one."""
        server = self._server_of(lease)
        if server is where:
            return False
        where.remove(lease)
        server.add(lease, clock.now())
        return True


class _Server:
    """The leases on one server, and the thread that renews them in batches, on a connection that was made before.

    A server that does not answer leaves the deadline where it is, and is asked again until then. Holds leases weakly:
    one that is dropped without a release stops being renewed and ends.
    """

    def __init__(self, renewer: Renewer, node: Node | None, store: LockStore) -> None:
        self._renewer = renewer
        self._node = node
        self._store = store
        self._leases: dict[int, weakref.ref[Renewable]] = {}
        self._mutex = threading.RLock()
        self._is_dialled = False
        self._failures = 0  # exchanges in a row that did not renew all
        self._clockwork = Clockwork("locksmith-renewal", self._renew_due)

    def add(self, lease: Renewable, when: float) -> None:
        lease.renew_at = when
        with self._mutex:
            self._leases[id(lease)] = weakref.ref(lease)
        # The connection is made now: when it is needed, the server may take no more clients.
        self._clockwork.due_at(when if self._is_dialled else clock.now())

    def remove(self, lease: Renewable) -> None:
        with self._mutex:
            self._leases.pop(id(lease), None)

    def end(self) -> None:
        self._clockwork.end()

    def _renew_due(self) -> float:
        if not self._is_dialled and self._node is not None:
            try:
                run_sync(run_sync(self._store.transport.connection_to(self._node)).keep())
            except (ServerTrouble, LockUnavailable) as trouble:
                logger.warning("no connection for renewals yet, which will use those of the pool: %s", trouble)
            self._is_dialled = True
        while True:
            due, nearest = self._look(clock.now())
            if not due:
                return nearest
            self._renew([lease for lease in due if not self._renewer.move(lease, self)])

    def _look(self, now: float) -> tuple[list[Renewable], float]:
        """Those that are to be renewed now, and when the next one is."""
        due: list[Renewable] = []
        along: list[Renewable] = []
        nearest = inf
        with self._mutex:
            for name, reference in list(self._leases.items()):
                lease = reference()
                if lease is None:
                    del self._leases[name]
                elif lease.renew_at <= now:
                    due.append(lease)
                elif lease.renew_at - lease.timeout * _ALONG <= now:
                    along.append(lease)
                else:
                    nearest = min(nearest, lease.renew_at)
        if not due:
            return [], min(nearest, min((lease.renew_at for lease in along), default=inf))
        due = (due + along)[:_MOST]
        for lease in due:
            # Should no reply come, it is looked at again soon. Set here, so that no failure can make it spin.
            lease.renew_at = now + max(0.05, lease.timeout / 20)
        return due, nearest

    def _renew(self, leases: list[Renewable]) -> None:
        now = clock.now()
        batch: list[tuple[Renewable, int, tuple[Holding, float]]] = []
        for lease in leases:
            if lease.hold_until > now:
                batch.append((lease, lease.changes, (lease.attempt, min(lease.timeout, lease.hold_until - now))))
            else:
                self.remove(lease)
                logger.error("the lock %r reached max_hold and is no longer renewed", lease.attempt.names.key)
        if not batch or self._node is None:
            return
        wanted = [holding for _, _, holding in batch]
        try:
            outcomes = run_sync(lock_policy.renew(self._store, self._node, wanted))
        except (ServerTrouble, LockUnavailable) as trouble:
            outcomes = [(Renewal.UNKNOWN, trouble)] * len(batch)
        self._report([outcome for what, outcome in outcomes if what is Renewal.UNKNOWN], len(batch))
        for (lease, changes, _), (what, deadline) in zip(batch, outcomes, strict=True):
            if what is Renewal.RENEWED and not isinstance(deadline, BaseException):
                lease.renew_at = clock.now() + _pause(lease.timeout)
                lease.prolong(deadline, changes)
            elif what is Renewal.LOST:
                self.remove(lease)
                lease.lose("Redis did not have it any more when it was to be renewed")

    def _report(self, unknown: Sequence[object], asked: int) -> None:
        """Say once that there is no answer, and once that there is again."""
        if unknown and not self._failures:
            logger.warning(
                "no answer to the renewal of %d of %d locks; asking again until their leases end: %s",
                len(unknown),
                asked,
                unknown[0],
            )
        elif self._failures and not unknown:
            logger.warning("renewals are answered again, after %d that were not", self._failures)
        self._failures = self._failures + 1 if unknown else 0


def _pause(timeout: float) -> float:
    return timeout / 3 * random.uniform(0.9, 1)
