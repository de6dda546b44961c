"""The scripts of rate limits as a state machine: random histories by a test's clock, held to a sliding log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from django_locksmith.redis.lua import BOOK, PLACE, RESCHEDULE, UNBOOK

if TYPE_CHECKING:
    from django_locksmith.redis.lua import Script
    from tests.helpers.deployments import Deployment

# The server's clock is a key of the test.
CLOCK = b"""
local server, redis = redis, nil
redis = {call = function(word, ...)
  if word ~= 'TIME' then return server.call(word, ...) end
  local us = tonumber(server.call('GET', 'clock'))
  return {tostring(math.floor(us / 1000000)), tostring(us % 1000000)}
end}
"""
KEYS = "places", "state", "news", "limits"
SECOND = 1_000_000
VALID = 2**52


class Booked:
    """A place that somebody has; `place` moves with a pause."""

    def __init__(self, by: str, number: int, cost: int, place: int) -> None:
        self.by = by
        self.number = number
        self.cost = cost
        self.place = place


class Schedule(RuleBasedStateMachine):
    """Callers who book, give back and come to their places, and an API that asks for pauses."""

    client: Any

    @initialize(
        windows=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 20).map(SECOND.__mul__)), min_size=1, max_size=3)
    )
    def begin(self, windows: list[tuple[int, int]]) -> None:
        self.client.flushall()
        self.windows = windows
        self.now = 1_700_000_000 * SECOND
        self.booked: list[Booked] = []
        self.paused_until = 0
        self.counted: list[tuple[int, int]] = []
        self.moved = 0
        self.apart = min(10_000, *(us // calls // 10 for calls, us in windows))
        self.bookers = 0

    def _run(self, script: Script, *arguments: int | str) -> Any:
        self.client.set("clock", self.now)
        numbers = [number for window in self.windows for number in window]
        more = ["quick", *numbers] if script in (BOOK, RESCHEDULE) else []
        return self.client.eval(CLOCK + script.text, len(KEYS), *KEYS, *arguments, *more)

    def _see_where_all_are(self) -> None:
        has_moved = False
        for each in self.booked:
            if each.place > self.now:
                now, place = self._run(PLACE, each.number)
                assert now == self.now
                assert place >= each.place, "a place that came nearer"
                has_moved = has_moved or place > each.place
                each.place = place
        heard = self.client.xread({"news": self.moved})
        assert bool(heard) == has_moved, "who sleeps hears of it if a place was moved, and only then"
        if heard:
            self.moved = int(heard[0][1][-1][0].partition("-")[0])

    @rule(cost=st.integers(1, 3), wait=st.sampled_from([-1, 0, SECOND, 30 * SECOND]))
    def book(self, cost: int, wait: int) -> None:
        """The next place, or none where that is too far."""
        cost = min(cost, *(calls for calls, _ in self.windows))
        self.bookers += 1
        self._book(f"booker {self.bookers}", cost, wait, self.client.lrange("places", 0, -1))

    def _book(self, by: str, cost: int, wait: int, others: list[str]) -> None:
        booked, now, place, *more = self._run(BOOK, VALID, cost, wait, by)
        assert place >= now == self.now
        assert place >= self.paused_until
        if not booked:
            assert place - now > wait >= 0
            assert self.client.lrange("places", 0, -1) == others, "something was booked"
            return
        assert wait < 0 or place - now <= wait
        last = max((each.place for each in self.booked), default=0)
        assert place >= last, "before one who came first"
        assert place == now or place >= last + self.apart, "so many who wake up at once are late"
        number, moved = more
        assert number > max((each.number for each in self.booked), default=0)
        assert moved == self.moved
        self.booked.append(Booked(by, number, cost, place))
        for calls, us in self.windows:
            known = sum(each.cost for each in self.booked if place - us < each.place <= place)
            assert known + sum(n for at, n in self.counted if place - us < at <= place) <= calls

    @precondition(lambda self: self.booked and self.client.hget("state", "by") == self.booked[-1].by)
    @rule(wait=st.sampled_from([-1, 0, SECOND]))
    def ask_again(self, wait: int) -> None:
        """The reply was lost: who asks again has the place that he has booked, and no second one.

        Has it come meanwhile, he would be late by as much, and the next one too early for him: then he has another
        one instead, or none where that is too far.
        """
        last = self.booked[-1]
        before = self.client.lrange("places", 0, -1)
        if last.place >= self.now:
            booked, _, place, number, _ = self._run(BOOK, VALID, last.cost, wait, last.by)
            assert (booked, place, number) == (1, last.place, last.number)
            assert self.client.lrange("places", 0, -1) == before
        else:
            self.booked.pop()
            self._book(last.by, last.cost, wait, before[: -last.cost])
            assert self.client.llen("places") <= len(before)

    @precondition(lambda self: any(each.place > self.now for each in self.booked))
    @rule(data=st.data(), heard=st.booleans())
    def give_back(self, data: Any, heard: bool) -> None:
        """Somebody gives up: his place is free again if it is the last, and costs a place if not."""
        gone = data.draw(st.sampled_from([each for each in self.booked if each.place > self.now]))
        is_last = gone is self.booked[-1]
        if not heard and is_last and self.client.hget("state", "by") != gone.by:
            return  # others who booked behind him have gone, and with them who he was
        before = self.client.llen("places")
        assert self._run(UNBOOK, VALID, gone.number if heard else 0, gone.cost, gone.by) == is_last
        assert before - self.client.llen("places") == (gone.cost if is_last else 0)
        if is_last:
            self.booked.remove(gone)

    @rule(seconds=st.integers(0, 30))
    def pause(self, seconds: int) -> None:
        """The API wants to be left alone: all places in the time to come move behind that, in their order."""
        self._run(RESCHEDULE, VALID, seconds * SECOND, 0, 0)
        self.paused_until = max(self.paused_until, self.now + seconds * SECOND)
        self._see_where_all_are()
        assert all(each.place <= self.now or each.place >= self.paused_until for each in self.booked)

    @rule(counted=st.integers(1, 6), age=st.integers(0, 25))
    def api_has_counted(self, counted: int, age: int) -> None:
        """The API has counted more than is known here: what is missing has its place in the log."""
        began = self.now - age * SECOND
        known = sum(each.cost for each in self.booked if began < each.place <= self.now)
        known += sum(n for at, n in self.counted if at > began)
        self._run(RESCHEDULE, VALID, 0, counted, age * SECOND)
        if counted > known:
            self.counted.append((began, counted - known))
        self._see_where_all_are()

    @rule(us=st.one_of(st.integers(0, 3 * SECOND), st.integers(0, 40 * SECOND)))
    def time_goes_by(self, us: int) -> None:
        """And the callers whose places have come make their calls."""
        self.now += us

    @rule()
    def too_late(self) -> None:
        """What comes after its time does nothing."""
        before = self.client.lrange("places", 0, -1), self.client.hgetall("state")
        assert self._run(BOOK, self.now - 1, 1, -1, "late") == [-2]
        assert self._run(UNBOOK, self.now - 1, self.booked[-1].number if self.booked else 1, 1, "late") == -2
        assert self._run(RESCHEDULE, self.now - 1, SECOND, 0, 0) == -2
        assert (self.client.lrange("places", 0, -1), self.client.hgetall("state")) == before

    @invariant()
    def never_more_than_allowed(self) -> None:
        """In no window of any of the rates are there more calls than it allows, whenever it begins."""
        for calls, us in getattr(self, "windows", []):
            for first in self.booked:
                within = sum(each.cost for each in self.booked if first.place <= each.place < first.place + us)
                assert within <= calls

    @invariant()
    def bounded(self) -> None:
        """What is kept ends by itself, and is no more than the windows look back to and people wait for."""
        if not getattr(self, "booked", None):
            return
        _, calls = max((us, calls) for calls, us in self.windows)
        later = sum(each.cost for each in self.booked if each.place > self.now)
        assert self.client.llen("places") <= 2 * calls + later + sum(n for _, n in self.counted) + 12
        assert self.client.pttl("state") > 0


def test_schedule(valkey: Deployment) -> None:
    """Never more than N in any window, in order of arrival; who does not wait books nothing; a pause moves all."""
    with valkey.server.client() as client:
        Schedule.client = client
        run_state_machine_as_test(
            Schedule,
            settings=settings(
                max_examples=100,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_call_that_counts_for_several_stays_whole(valkey: Deployment) -> None:
    """A pause moves a call with all that it counts for: what came behind it is not let in beside it."""
    windows = [2, SECOND]
    with valkey.server.client() as client:

        def run(script: Script, *arguments: int | str) -> Any:
            return client.eval(CLOCK + script.text, len(KEYS), *KEYS, *arguments, "quick", *windows)

        client.set("clock", 1_700_000_000 * SECOND)
        run(RESCHEDULE, VALID, SECOND, 0, 0)
        run(BOOK, VALID, 1, -1, "one")
        *_, number, _ = run(BOOK, VALID, 2, -1, "two")
        run(RESCHEDULE, VALID, 2 * SECOND, 0, 0)
        _, _, behind, *_ = run(BOOK, VALID, 1, -1, "three")
        _, dear = client.eval(CLOCK + PLACE.text, len(KEYS), *KEYS, number)
        assert behind >= dear + SECOND
