"""Keeps the leases of live holders alive: one thread for all of a service, sync and async alike."""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from math import inf
from typing import TYPE_CHECKING, Protocol

from ..exceptions import LockUnavailable, ServerTrouble
from ..policy import locks as lock_policy
from ..policy.sync_bridge import run_sync
from ..redis.messages import Renewal

if TYPE_CHECKING:
    from ..redis.connections import Node
    from ..redis.lock_store import LockStore
    from ..redis.messages import Holding
    from ..redis.transport import Connection

logger = logging.getLogger("django_locksmith.renewal")


class Renewable(Protocol):
    """What can be renewed. Times are monotonic seconds."""

    timeout: float
    hold_until: float
    renew_at: float

    @property
    def attempt(self) -> Holding:
        """What Redis knows it by."""

    def prolong(self, deadline: float) -> None:
        """It was renewed."""

    def lose(self, why: str) -> None:
        """Redis does not know it any more."""


class Renewer:
    """Renews the leases of one deployment in batches, at a third of each lease, on connections of its own.

    A server that does not answer leaves the deadline where it is, and is asked again until then. Holds leases weakly:
    one that is dropped without a release stops being renewed and ends. The thread never keeps the process alive.
    """

    def __init__(self, store: LockStore) -> None:
        self._store = store
        self._leases: dict[int, weakref.ref[Renewable]] = {}
        self._connections: dict[Node, Connection] = {}
        self._wakes_at = inf
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._over = False

    def add(self, lease: Renewable) -> None:
        """Keep it alive from now on."""
        lease.renew_at = time.monotonic() + _pause(lease.timeout)
        with self._changed:
            self._leases[id(lease)] = weakref.ref(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="locksmith-renewal", daemon=True)
                self._thread.start()
            if lease.renew_at < self._wakes_at:
                self._wakes_at = lease.renew_at
                self._changed.notify()

    def remove(self, lease: Renewable) -> None:
        """Renew it no more."""
        with self._changed:
            self._leases.pop(id(lease), None)

    def end(self) -> None:
        """Renew nothing any more, and end the thread."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            self._wait_until_due()
            if self._over:
                return
            try:
                self._renew_due()
            except Exception:
                # All other leases depend on this thread: it reports, and goes on.
                logger.exception("renewal failed unexpectedly; trying again")

    def _wait_until_due(self) -> None:
        with self._changed:
            while not self._over and (pause := self._wakes_at - time.monotonic()) > 0:
                self._changed.wait(None if pause == inf else pause)

    def _renew_due(self) -> None:
        # A function of its own, so that the thread has no reference to a lease while it sleeps.
        with self._changed:
            due = self._look(time.monotonic())
        batches: dict[Node, list[Renewable]] = {}
        for lease in due:
            node = self._store.transport.node_for(lease.attempt.names.lock)
            batches.setdefault(node, []).append(lease)
        for node, batch in batches.items():
            self._renew(node, batch)

    def _look(self, now: float) -> list[Renewable]:
        due: list[Renewable] = []
        nearest = inf
        for name, reference in list(self._leases.items()):
            lease = reference()
            if lease is None:
                del self._leases[name]
            elif lease.renew_at <= now:
                # Should no reply come, it is looked at again soon. Set here, so that no failure can make it spin.
                lease.renew_at = now + max(0.05, lease.timeout / 20)
                nearest = min(nearest, lease.renew_at)
                due.append(lease)
            else:
                nearest = min(nearest, lease.renew_at)
        self._wakes_at = nearest
        return due

    def _renew(self, node: Node, leases: list[Renewable]) -> None:
        now = time.monotonic()
        batch = []
        for lease in leases:
            if lease.hold_until > now:
                batch.append((lease, (lease.attempt, min(lease.timeout, lease.hold_until - now))))
            else:
                self.remove(lease)
                logger.error("the lock %r reached max_hold and is no longer renewed", lease.attempt.names.key)
        if not batch:
            return
        try:
            if node not in self._connections:
                self._connections[node] = run_sync(self._store.transport.connection_to(node))
            outcomes = run_sync(
                lock_policy.renew(self._store, self._connections[node], [holding for _, holding in batch])
            )
        except (ServerTrouble, LockUnavailable):
            outcomes = [(Renewal.UNKNOWN, 0.0)] * len(batch)
        if any(outcome is Renewal.UNKNOWN for outcome, _ in outcomes):
            connection = self._connections.pop(node, None)
            if connection is not None:
                run_sync(connection.drop())
            logger.warning("no answer to the renewal of %d locks; asking again until their leases end", len(batch))
        for (lease, _), (outcome, deadline) in zip(batch, outcomes, strict=True):
            if outcome is Renewal.RENEWED:
                lease.renew_at = time.monotonic() + _pause(lease.timeout)
                lease.prolong(deadline)
            elif outcome is Renewal.LOST:
                self.remove(lease)
                lease.lose("Redis did not have it any more when it was to be renewed")


def _pause(timeout: float) -> float:
    return timeout / 3 * random.uniform(0.9, 1)
