"""Leases that are kept until a response has been rendered or sent."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ..runtime.expiry import tell_in_thread

if TYPE_CHECKING:
    from ..api.lease import Lease


class Parting:
    """Gives a lease back when its response is done with; also when nobody will ever render, send or close it.

    The response must not be kept alive by any of this: where a client went away, or a middleware put another response
    in its place, it is simply dropped.
    """

    def __init__(self, lease: Lease, response: Any) -> None:
        # It is not the thread's any more: that may serve the next request meanwhile, and wait for this very lock.
        lease.detach()
        self._lease = lease
        self._response = weakref.ref(response)
        self._dropped = weakref.finalize(response, tell_in_thread, [self._release])

    def _release(self) -> None:
        self._lease.__exit__(None, None, None)

    def now(self) -> None:
        """The response is done with."""
        if self._dropped.detach():
            self._release()

    def when_closed(self) -> None:
        """It is given back when the response has been sent."""
        response = self._response()
        assert response is not None
        response._resource_closers.append(self.now)  # an own close() would refer to the response, and keep it

    def when_rendered(self) -> None:
        """It is given back when the response has been rendered."""
        response = self._response()
        assert response is not None
        response.render = self._render

    def _render(self) -> Any:
        response = self._response()
        assert response is not None
        del response.render  # caches pickle what has been rendered
        try:
            return response.render()
        finally:
            self.now()
