"""What can go wrong, and what to do about it.

LocksmithError
├── LockBusy          somebody else holds the lock            try later
│   └── LockReentered this thread or task holds it itself     mend the code
├── LockLost          it was ours, and is no more             stop, and check what was written
│   └── StaleFence    the data refused a former holder        stop; read it again before trying again
├── LockUnavailable   Redis gave no usable answer             treat as "unknown": neither held nor free
├── SlotsDiffer       others mean another number of slots   mend the code: one key, one number
├── PopulateFailed    another caller computed, and failed     as if one's own computation had failed
└── RetryLater        an API wants to be left alone           wait, and serve what is old meanwhile

Busy, lost and unavailable are never one another.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from redis.exceptions import LockError, LockNotOwnedError

if TYPE_CHECKING:
    from .records import Holder

_LONGEST_PAUSE = 365 * 86400


class LocksmithError(Exception):
    """Base of all errors of this package.

    Those that are also redis-py's are so `ValueError`s, whose text pydantic, GraphQL and the like show to whoever sent
    the request. So their text names no key, no host and no user: `details` does, `repr`, the attributes, and from
    Python 3.11 on each traceback.
    """

    _shown = ""

    def __str__(self) -> str:
        return self._shown or super().__str__()

    @property
    def details(self) -> str:
        """What happened, with names: for logs, not for visitors."""
        return str(self)

    def __repr__(self) -> str:
        # redis-py's errors have another one, which does not tell what happened.
        return f"{type(self).__name__}({self.details!r})"

    def _given(self) -> tuple[object, ...]:
        return self.args

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._given(), dict(self.__dict__)

    def _tell(self, text: str, *args: object) -> None:
        """Show this text to all, and the details to developers. `args`: what Celery makes the error of again."""
        self.args = args
        self._shown = text
        if hasattr(self, "add_note"):
            self.add_note(self.details)


class LockBusy(LocksmithError, LockError):
    """The lock was held by somebody else until the wait was over.

    Also a `redis.exceptions.LockError`, so that code written for redis-py's lock keeps working.

    Attributes:
        key: the key that was asked for.
        holder: who holds it, or `None` where that is not known.
        retry_after: seconds until the lease seen last runs out, or `None`; its holder may renew it or end it sooner.
        slots: how many may hold it; then all of these are taken, and `holder` is the one whose lease ends first.
    """

    _text = "the lock is held by somebody else"

    def __init__(
        self, key: str, holder: Holder | None = None, retry_after: float | None = None, slots: int = 1
    ) -> None:
        self.key = key
        self.holder = holder
        self.retry_after = retry_after
        self.slots = slots
        super().__init__(self._text, lock_name=key)
        self._tell(self._text, key)

    @property
    def details(self) -> str:
        by = f" by {self.holder}" if self.holder else ""
        left = f"; its lease ends in {self.retry_after:.1f} s" if self.retry_after is not None else ""
        if self.slots > 1:
            return f"all {self.slots} slots of {self.key!r} are taken; the next to end is held{by}{left}"
        return f"the lock {self.key!r} is held{by}{left}"

    def _given(self) -> tuple[object, ...]:
        return (self.key, self.holder, self.retry_after, self.slots)


class LockReentered(LockBusy):
    """The code that wants to wait for the lock runs within the block that holds it: it would wait for itself.

    Raised at once, also across `sync_to_async`, `async_to_sync` and in the tasks that the block has started. Take the
    lock once and pass the lease on, or acquire with `blocking=False`. A task that outlives the block, and may wait for
    its end, is started in a context of its own (`context=contextvars.Context()`).
    """

    _text = "the lock is held by the very code that would wait for it"

    @property
    def details(self) -> str:
        return (
            f"a block around this code, or around who started it, holds {self.key!r}, and would be waited for within"
            " itself; pass the lease, or the value, on instead of asking for it again"
        )


class SlotsDiffer(LocksmithError, ValueError):
    """The key is held with another number of slots, or with another list of them, than was asked for.

    Nothing was taken: there are never more holders than the smaller number. Once nobody holds it any more, the next who
    asks says how many there are.

    Attributes:
        key: the key that was asked for.
        wanted: how many slots were asked for; 1 is a lock.
        kept: how many those who hold it mean.
    """

    def __init__(self, key: str, wanted: float, kept: float) -> None:
        self.key = key
        self.wanted = int(wanted)
        self.kept = int(kept)
        self._numbers = wanted, kept
        other = "another, " if wanted == kept else ""
        text = f"asked for as {_slots(wanted)}, held as {other}{_slots(kept)}; one key must mean one number of slots"
        super().__init__(text)
        self._tell(text, key, wanted, kept)

    @property
    def details(self) -> str:
        return f"{self.key!r}: {self}"

    def _given(self) -> tuple[object, ...]:
        return (self.key, *self._numbers)


def _slots(number: float) -> str:
    """`number`: a half more for those that have names."""
    if number == 1:
        return "a lock (slots=1)"
    return f"slots={int(number)}" if number == int(number) else f"a list of {int(number)} slots"


class LockLost(LocksmithError, LockNotOwnedError):
    """The caller does not hold the lock any more.

    Its lease ran out, somebody cleared it, or Redis forgot it. Others may have worked at the same time. Raised by
    `ensure_held()`, `extend()`, `release()`, and at the end of a `with` block whose body went well.
    """

    _text = "the lock is not held: %s"

    def __init__(self, key: str, why: str) -> None:
        self.key = key
        self.why = why
        text = self._text % why
        super().__init__(text, lock_name=key)
        self._tell(text, key, why)

    @property
    def details(self) -> str:
        return f"the lock {self.key!r} is not held: {self.why}"

    def _given(self) -> tuple[object, ...]:
        return (self.key, self.why)


class StaleFence(LockLost):
    """The data has seen a later holder of the lock, and refused this write. Nothing of it was written.

    Raised by `save`, `delete` and `fenced_update` of `django_locksmith.fencing`; raise it yourself after a statement of
    your own that found a newer fence. A transaction around it stays usable.

    Attributes:
        fence: that of the refused write.
        newer: the fence that has written since, or `None` where that is not known: the row may be gone.
        model: label of the model, "" if there is none.
        pk: the row's primary key, `None` if the write was not to one row.
        key: the lock's key, "" if only the fence was given.
    """

    _text = "the write was refused: %s"

    def __init__(self, fence: int, newer: int | None = None, model: str = "", pk: Any = None, key: str = "") -> None:
        self.fence = fence
        self.newer = newer
        self.model = model
        self.pk = pk
        since = "a later holder has been there, or the row is gone"
        super().__init__(key, since if newer is None else f"fence {newer} has written since")
        self.args = fence, newer, model, pk, key

    @property
    def details(self) -> str:
        place = f" to {self.model}" if self.model else ""
        row = "" if self.pk is None else f" {self.pk!r}"
        lock = f" of the lock {self.key!r}" if self.key else ""
        return f"the write{place}{row} with fence {self.fence}{lock} was refused: {self.why}"

    def _given(self) -> tuple[object, ...]:
        return (self.fence, self.newer, self.model, self.pk, self.key)


class LockUnavailable(LocksmithError):
    """Redis could not be reached, did not answer in time, or refused the command.

    Whether the lock is held is unknown. What redis-py said is kept in `__cause__`. A grant that came after all is given
    back as far as Redis can be reached; otherwise it ends with its lease.
    """


class PopulateFailed(LocksmithError):
    """The caller who computed the value that this one waited for failed.

    Attributes:
        key: that of the value.
        kind: dotted name of the other caller's exception. The exception itself stays where it was raised.
        message: its text.
    """

    def __init__(self, key: str, kind: str, message: str) -> None:
        self.key = key
        self.kind = kind
        self.message = message
        super().__init__(key, kind, message)
        self._shown = f"another caller failed to compute {key!r}: {kind}: {message}"

    def _given(self) -> tuple[object, ...]:
        return (self.key, self.kind, self.message)


class RetryLater(LocksmithError):
    """Nobody is to compute this value before so many seconds are over.

    Raise it in the function that computes, for example with the `Retry-After` of an HTTP 429: nobody in the fleet calls
    it again before. Callers get the old value, if `stale` kept one, or this error with the `seconds` that are left.

    Args:
        seconds: how long, up to a year; or the text of a `Retry-After` header: seconds, or a date (RFC 9110, 10.2.3).
            A date that is past is 0 seconds, and what is longer than a year is a year, in such a text.

    Raises:
        TypeError, ValueError: for what is neither.
    """

    def __init__(self, seconds: float | timedelta | str) -> None:
        if isinstance(seconds, str):
            seconds = _seconds_of_header(seconds)
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(
                f"RetryLater takes seconds (int, float, timedelta) or the text of a Retry-After header, not {seconds!r}"
            )
        if not 0 <= seconds <= _LONGEST_PAUSE:
            raise ValueError(f"RetryLater takes from 0 to {_LONGEST_PAUSE} seconds, not {seconds!r}")
        self.seconds = float(seconds)
        super().__init__(self.seconds)
        self._shown = f"not to be computed again for {self.seconds:.1f} s"

    def _given(self) -> tuple[object, ...]:
        return (self.seconds,)


def _seconds_of_header(text: str) -> float:
    stripped = text.strip()
    if stripped.isascii() and stripped.isdigit():
        return float(min(int(stripped[:20]), _LONGEST_PAUSE))
    try:
        date = parsedate_to_datetime(stripped)
    except (
        TypeError,
        ValueError,
        IndexError,
        OverflowError,
    ) as error:  # Python 3.10 does not turn all that it meets into one kind
        raise ValueError(f"RetryLater takes a header that says seconds or a date, not {text[:100]!r}") from error
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return min(max(0.0, (date - datetime.now(timezone.utc)).total_seconds()), float(_LONGEST_PAUSE))


class ServerTrouble(Exception):
    """One exchange with Redis failed in a way that may pass. Never leaves this package.

    `mute`: the server took the request and kept silent, so that asking again costs another full timeout. `sent`: the
    request may have reached it, and done its work.
    """

    def __init__(self, error: BaseException, *, mute: bool = False, sent: bool = False) -> None:
        self.error = error
        self.mute = mute
        self.sent = sent
        super().__init__(str(error))
