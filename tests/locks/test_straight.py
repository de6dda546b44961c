"""The straight path of threads and the policy's coroutines, held to one table of cases: the same comes of both."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, cast

import pytest

from django_locksmith.exceptions import LockUnavailable, ServerTrouble
from django_locksmith.local.events import ThreadEvent
from django_locksmith.local.queues import LocalQueues, Ticket
from django_locksmith.policy import locks, straight
from django_locksmith.policy.sync_bridge import run_sync
from django_locksmith.redis.key_names import names_on_one_server
from django_locksmith.redis.messages import NO_REPLY, Attempt, Busy, Granted, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from django_locksmith.redis.lock_store import LockStore

LEASE = 30.0
NAMES = names_on_one_server("__locksmith:", "k")
GRANTED, BUSY = Granted(7, 100.0, 0.0), Busy(100.0, 0.0, 20.0, "somebody")
CUT = ServerTrouble(ConnectionError("cut"), sent=True)
DOWN = ServerTrouble(ConnectionError("refused"))
MUTE = ServerTrouble(TimeoutError("mute"), mute=True, sent=True)
REFUSED = LockUnavailable("Redis refused")
STRAIGHT_CANNOT = None
"""What the straight path's request says where one is not enough: the policy's own is then asked with the same words."""


class ScriptedStore:
    """A server that answers as it is told to, by a clock that moves only while somebody sleeps, or is kept waiting."""

    def __init__(self, *answers: Any, took: float = 0.0) -> None:
        self._answers = list(answers)
        self._took = took
        self.time = 100.0
        self.asked: list[Any] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds

    async def shielded(self, work: Awaitable[Any]) -> Any:
        return await work

    def _answer(self, attempt: Attempt, *asked: Any) -> Any:
        self.asked.append(asked)
        self.time += self._took
        answer = self._answers.pop(0)
        attempt.sent = answer is not DOWN
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def try_now(self, attempt: Attempt, sent: float) -> Any:
        if self._answers[0] is STRAIGHT_CANNOT:
            return self._answers.pop(0)
        return self._answer(attempt, "acquire", "try", attempt.wait)

    async def acquire(self, attempt: Attempt, wait: float, mode: str, sent: float = 0.0) -> Any:
        if self._answers[0] is STRAIGHT_CANNOT:
            self._answers.pop(0)
        return self._answer(attempt, "acquire", mode, "probing" if mode == "probe" else wait)

    def release_now(self, attempt: Attempt) -> Any:
        if self._answers[0] is STRAIGHT_CANNOT:
            return self._answers.pop(0)
        return self._answer(attempt, "release")

    async def release(self, attempt: Attempt) -> Any:
        if self._answers[0] is STRAIGHT_CANNOT:
            self._answers.pop(0)
        return self._answer(attempt, "release")

    async def abandon(self, attempt: Attempt) -> None:
        self.asked.append(("abandon",))

    def abandon_later(self, attempt: Attempt) -> None:
        self.asked.append(("abandon later",))

    async def look(self, names: Any) -> None:
        self.asked.append(("look",))

    async def block_for_baton(self, attempt: Attempt, wait: float) -> Any:
        self.asked.append(("block", wait))
        return Blocked(self, attempt)


class Blocked:
    """A waiter whom the baton reaches after a while; its claim is the next answer."""

    open = True

    def __init__(self, store: ScriptedStore, attempt: Attempt) -> None:
        self._store = store
        self._attempt = attempt

    async def woken(self, seconds: float) -> Any:
        self._store.time += 0.4
        return NO_REPLY if self._store._answers[0] is BUSY else None

    async def claimed(self) -> Any:
        self.open = False
        return self._store._answer(self._attempt, "claim")

    async def leave(self) -> None:
        self._store.asked.append(("leave",))


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except BaseException as error:
        return type(error), str(error)


def _acquired(way: Callable[..., Any], wait: float, answers: Sequence[Any], took: float, *, behind: bool) -> Any:
    store = ScriptedStore(*answers, took=took)
    queues = LocalQueues(ThreadEvent, store.now)
    before = Ticket(queues, NAMES.lock)
    if behind:
        before.enter()
        store.sleep = None  # type: ignore[assignment,method-assign]  # it waits for the other, and not for the server
        store.time += wait  # and comes to the end of its wait at once
        queues._now = lambda: store.time + wait
    attempt = Attempt(NAMES, b"token", LEASE, wait)
    held: list[Any] = []

    def hold(*granted: float) -> str:
        held.append(granted)
        return "the lease"

    outcome = _outcome(lambda: way(store, queues, attempt, hold))
    before.leave()
    return outcome, held, store.asked, store.time, dict(queues._queues)


def _in_coroutines(*arguments: Any) -> Any:
    return run_sync(locks.acquire(*arguments))


@pytest.fixture(autouse=True)
def _no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda least, most: most)


ANSWERS = {
    "granted": [GRANTED],
    "granted, past the straight path": [STRAIGHT_CANNOT, GRANTED],
    "busy": [BUSY],
    "busy, then the baton": [BUSY, GRANTED],
    "busy, seen again, then the baton": [BUSY, BUSY, GRANTED],
    "refused a place, then granted": [Refused(), GRANTED],
    "cut, then granted": [CUT, GRANTED],
    "down, then granted": [DOWN, GRANTED],
    "down for long": [DOWN] * 50,
    "mute": [MUTE] * 50,
    "mute, then granted": [MUTE, Granted(8, 106.0, 0.0)],
    "refused": [REFUSED],
    "interrupted": [KeyboardInterrupt()],
}


@pytest.mark.parametrize("wait", [0.0, 2.0, 60.0, inf])
@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("took", [0.0, 5.0, 40.0], ids=["at once", "late", "after the lease"])
def test_acquire(wait: float, answers: list[Any], took: float) -> None:
    """Threads get, ask, wait, give up and leave behind by the straight path what they do by the policy's coroutines."""
    if wait == 0.0 and len(answers) > 1 and answers[0] is BUSY:
        answers = answers[:1]
    if took == 40.0:
        answers = [*answers, *[GRANTED] * 50]
    by_coroutines = _acquired(_in_coroutines, wait, answers, took, behind=False)
    assert _acquired(straight.acquire, wait, answers, took, behind=False) == by_coroutines
    outcome, held, asked, _, queues = by_coroutines
    assert queues == {}, "a place that nobody leaves"
    assert (outcome == "the lease") is bool(held)
    assert ("acquire", "try", wait) == asked[0]


def test_behind_another_of_the_process() -> None:
    """A thread that is not the first of its process asks nothing but, when its wait is over, who has the lock."""
    found = [_acquired(way, 0.5, [GRANTED], 0.0, behind=True) for way in (straight.acquire, _in_coroutines)]
    assert found[0] == found[1]
    outcome, held, asked, _, queues = found[0]
    assert isinstance(outcome, Busy)
    assert (held, asked, queues) == ([], [("look",)], {})


@pytest.mark.parametrize("deadline", [90.0, 110.0, inf], ids=["over", "in time", "without end"])
@pytest.mark.parametrize(
    "answers",
    [
        [True],
        [False],
        [STRAIGHT_CANNOT, True],
        [CUT, True],
        [CUT, False],
        [DOWN, True],
        [DOWN, False],
        [DOWN, DOWN],
        [MUTE],
        [REFUSED],
        [KeyboardInterrupt()],
    ],
    ids=repr,
)
def test_release(answers: list[Any], deadline: float) -> None:
    """And give back what they would give back."""
    found = []
    for way in (straight.release, lambda *arguments: run_sync(locks.release(*arguments))):
        store = ScriptedStore(*answers)
        attempt = Attempt(NAMES, b"token", LEASE, 0.0)
        found.append((_outcome(lambda: way(store, attempt, deadline)), store.asked))  # noqa: B023  # called on the spot
    assert found[0] == found[1]


@pytest.mark.parametrize("word", ["enter", "leave"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_interrupted_in_the_local_queue(monkeypatch: pytest.MonkeyPatch, word: str, moment: str) -> None:
    """An interruption just as the place in the process is taken, or left, leaves neither it nor the lock behind."""
    original = getattr(Ticket, word)
    interruptions = [KeyboardInterrupt()]

    def interrupted(ticket: Ticket) -> Any:
        if not interruptions:
            return original(ticket)
        if moment == "after":
            original(ticket)
            if word == "leave":
                ticket._queue = []  # it has left, and does not know it yet
        raise interruptions.pop()

    monkeypatch.setattr(Ticket, word, interrupted)
    outcome, _, asked, _, queues = _acquired(straight.acquire, 2.0, [GRANTED], 0.0, behind=False)
    assert outcome[0] is KeyboardInterrupt
    assert queues == {}
    assert asked == ([] if word == "enter" else [("acquire", "try", 2.0), ("abandon",)])


class FailingStore(ScriptedStore):
    """Its errors are nobody's but theirs who get them."""

    def __init__(self, fail: Callable[[], BaseException]) -> None:
        super().__init__("an error")
        self._fail = fail

    def _answer(self, attempt: Attempt, *asked: Any) -> Any:
        raise self._fail()


@pytest.mark.parametrize(
    "fail", [lambda: LockUnavailable("Redis refused"), lambda: ServerTrouble(ConnectionError("cut"))]
)
def test_errors_are_let_go(fail: Callable[[], BaseException]) -> None:
    """What an error of the first request refers to is free as soon as its caller has dealt with it, without a cycle."""

    class Work: ...

    def acquire() -> weakref.ref[Work]:
        work = Work()  # which the traceback of the error refers to
        store = cast("LockStore", FailingStore(fail))
        with suppress(LockUnavailable):
            straight.acquire(store, LocalQueues(ThreadEvent, store.now), Attempt(NAMES, b"token", LEASE, 0.0), print)
        return weakref.ref(work)

    gc.disable()
    try:
        assert acquire()() is None
    finally:
        gc.enable()
