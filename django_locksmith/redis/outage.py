"""Says once that Redis does not answer, and once that it does again: not a line for each request that fails."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("django_locksmith.redis")

_SAID_AFTER = 0.5
"""Seconds: a connection that is merely stale, or a server that is back at once, is nothing to speak of."""


class Outage:
    """Of one deployment, as this process sees it: from a request that failed to the next one that did not."""

    __slots__ = ("_failures", "_said", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        self._failures = 0
        self._said = False

    def failed(self, error: BaseException) -> None:
        """A request got no usable answer."""
        now = time.monotonic()
        self._failures += 1
        if self.since is None:
            self.since = now
        elif not self._said and now - self.since > _SAID_AFTER:
            self._said = True
            logger.warning(
                "Redis has given no usable answer for %.1f s (said once, until it answers): %s",
                now - self.since,
                str(error) or type(error).__name__,
            )

    def over(self) -> None:
        """A request was answered."""
        since, self.since = self.since, None
        failures, self._failures = self._failures, 0
        said, self._said = self._said, False
        if said and since is not None:
            logger.warning("Redis answers again, after %.1f s and %d failures", time.monotonic() - since, failures)
