"""What must hold after every step, and in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import ref

from django_locksmith.redis.lua import BOOK, OF_LOCK, OF_SLOTS
from django_locksmith.tokens import HANDED_OVER

from .terms import CAUTION, RATE_CALLS, RATE_SECONDS
from .values import SortedSet
from .world import SOCKET_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django_locksmith import Lease

    from .machine import Machine
    from .server import Client
    from .values import Reply
    from .world import World

PREFIX = b"__locksmith:"
TAKEN_WITHIN = 0.3
"""Seconds in which a lock that is free goes to somebody who waits, where the network is well."""
TAKEN_WITHIN_IN_TROUBLE = 12.0
GIVEN_BACK_WITHIN = 1.0
"""Seconds after which nothing is held of what was given up, where the network is well."""


LAST_TIME = 10**14


def _kinds() -> dict[bytes, str]:
    """What a script does, by its digest and its text: as they are now, for a mutant may have changed them."""
    scripts = [("book", BOOK)]
    for of_kind in (OF_LOCK, OF_SLOTS):
        scripts += [("acquire", of_kind.acquire), ("release", of_kind.release)]
    return {name: kind for kind, script in scripts for name in (script.digest, script.text)}


class Broken(AssertionError):
    """A promise."""


@dataclass
class Held:
    """A lease that somebody has been given."""

    machine: Machine
    reference: ref[Lease]
    most: int
    is_excused: bool = False
    """The server has forgotten it, or set its clock: docs/guarantees.md promises nothing then."""

    @property
    def lease(self) -> Lease | None:
        """`None`: nobody has it any more."""
        return self.reference()


@dataclass
class Call:
    """Somebody who waits for a lock. `wait`: seconds."""

    machine: Machine
    key: str
    most: int
    wait: float
    began: float
    stopped_before: float = 0.0


@dataclass
class Judge:
    """Sees all leases and calls of a world.

    `is_quiet`: nothing but callers who give up befalls it. `is_well`: or processes that are stopped for a while.
    """

    world: World
    is_quiet: bool
    is_well: bool
    held: list[Held] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    fences: dict[str, set[int]] = field(default_factory=dict)
    grants: int = 0
    _excused_at: float = 0.0
    _places: dict[int, int] = field(default_factory=dict)
    _excuses: set[str] = field(default_factory=set)
    _free_since: dict[str, float] = field(default_factory=dict)
    _handed_over: set[bytes] = field(default_factory=set)
    _given_up: set[bytes] = field(default_factory=set)
    _kinds: dict[bytes, str] = field(default_factory=_kinds)

    # ---- what callers see

    def begins(self, machine: Machine, key: str, most: int, wait: float) -> Call:
        """A call for a lock."""
        call = Call(machine, key, most, wait, self.world.loop.time(), machine.pauses)
        self.calls.append(call)
        return call

    def granted(self, call: Call, lease: Lease) -> None:
        """A call has given a lease.

        Where the clock was set while it waited, its lease may be reckoned by both: `policy/locks.py`, `_dated`.
        """
        self.grants += 1
        machine, most = call.machine, call.most
        self.world.tell(f"{machine}: GRANTED {lease.key!r} fence {lease.fence}, {lease.remaining:.3f} s left")
        is_excused = call.began <= self._excused_at
        # Of several holders the replies may come in another order than the grants; but no two have one fence.
        before = self.fences.setdefault(lease.key, set())
        if lease.fence in before or (most == 1 and before and lease.fence < max(before) and not is_excused):
            raise Broken(f"the fence of {lease.key!r} is {lease.fence}, after {max(before)}")
        before.add(lease.fence)
        self.held.append(Held(machine, ref(lease), most, is_excused))
        self.look()

    def ended(self, call: Call) -> None:
        """It has given something, or raised."""
        self.calls.remove(call)
        late = 0.1 if self.is_quiet else 3 * SOCKET_TIMEOUT + (call.machine.pauses - call.stopped_before) + 0.5
        took = self.world.loop.time() - call.began
        if took > call.wait + late:
            raise Broken(f"a call for {call.key!r} with blocking_timeout={call.wait:g} took {took:.2f} s")

    def server_lost_its_data(self) -> None:
        """Leases that are held now may end before their time."""
        self._excuse_all()
        self._forget_fences("lost data")

    def clock_is_set(self, forward: float) -> None:
        """Of the server. Set forward, it ends leases before their time; set back, it does not."""
        if forward > 0:
            self._excuse_all()
        self._forget_fences("clock set")

    def _excuse_all(self) -> None:
        for each in self.held:
            each.is_excused = True
        self._excused_at = self.world.loop.time()  # some may be on the way to their holders

    def _forget_fences(self, why: str) -> None:
        """After both, nothing knows any more what the last fence was; and schedules begin anew after each."""
        self._places.clear()
        self._excuses.add(why)
        if len(self._excuses) > 1:
            self.fences.clear()

    # ---- what the server sees

    def observe(self, client: Client, command: list[bytes], reply: Reply) -> None:
        """A script has run."""
        kind = self._kinds.get(command[1]) if command[0] in (b"EVAL", b"EVALSHA") else None
        if kind is None:
            return
        if kind == "book":
            self._booked(reply)
            return
        key, (token, *arguments) = command[3], command[3 + int(command[2]) :]
        if kind == "acquire" and reply[0] == 0 and reply[3] == token:
            raise Broken(f"{client.link.machine} waits for {key!r}, which it holds itself")
        if kind == "release":
            self._given_up.add(token)
        elif kind == "acquire" and reply[0] == 1:
            # What was on its way when its connection was closed may come behind what undoes it; and so may what is
            # late, where the clock was set back (docs/guarantees.md).
            is_excused = client.link.is_given_up or "clock set" in self._excuses
            if token in self._given_up and not is_excused:
                raise Broken(f"{key!r} was granted to somebody who had given it back, or up: {token!r}")
            # Who does not wait takes a baton that lies there, for whoever it is meant for may be dead.
            waits = (arguments[2:] or [b"1"])[0] != b"0" and (arguments[3:] or [b"try"])[0] == b"try"
            if self.is_well and waits and key in self._handed_over and self._queue(key):
                raise Broken(f"{client.link.machine} has overtaken those who wait for {key!r}")
            self._handed_over.discard(key)
        # Of slots more may be free than are waited for.
        is_lock = command[1] in (OF_LOCK.release.digest, OF_LOCK.release.text)
        if kind == "release" and is_lock and reply == 1 and self._queue(key):
            self._handed_over.add(key)

    def _booked(self, reply: Reply) -> None:
        """A place in the rate limit, maybe: never more than so many in so many seconds, by the server's clock.

        By its number: one that was given back is booked again by the next.
        """
        if reply[0] != 1:
            return
        self.grants += 1
        _, now, place, number, _ = reply
        if place < now:
            raise Broken(f"a place came {(now - place) / 1e6:.6f} s before its booker can hear of it")
        self._places[number] = place
        places = sorted(self._places.values())
        for first, last in zip(places, places[RATE_CALLS:], strict=False):
            if last - first < (RATE_SECONDS + CAUTION) * 1e6:
                raise Broken(f"{RATE_CALLS + 1} calls were booked within {(last - first) / 1e6:.6f} s")

    def _queue(self, key: bytes) -> SortedSet | None:
        queue: SortedSet | None = self.world.server.engine.get(PREFIX + b"<queue>" + key[len(PREFIX) :], SortedSet)
        return queue

    # ---- what must hold

    def look(self) -> None:
        """Never more holders than may be that believe; and nobody waits for what is free."""
        believed: dict[str, list[tuple[Held, Lease]]] = {}
        for each in list(self.held):
            lease = each.lease
            if lease is None or each.machine.is_dead or lease._state != "held":
                self.held.remove(each)
            elif lease.held and not each.is_excused:
                believed.setdefault(lease.key, []).append((each, lease))
        for key, holders in believed.items():
            if len(holders) > holders[0][0].most:
                raise Broken(f"{len(holders)} believe that they hold {key!r}: {_said(holders)}")
            names = [lease.slot for _, lease in holders if lease.slot]
            if len(names) != len(set(names)):
                raise Broken(f"one slot of {key!r} for two: {names}")
            known = self._holders(key)
            for each, lease in holders:
                if lease.token.encode() not in known:
                    raise Broken(f"{each.machine} believes that it holds {key!r}, and Redis does not know it")
        self._look_at_what_is_free()

    def _holders(self, key: str) -> set[bytes]:
        """Whose it is, by what Redis has."""
        engine = self.world.server.engine
        name = PREFIX + key.encode()
        if not engine.has(name):
            return set()
        value = engine.data[name]
        if isinstance(value, SortedSet):
            return {member for ends, member in value.order if engine.now_ms() + 1 <= ends < LAST_TIME}
        return {value} - {HANDED_OVER.encode()}

    def _look_at_what_is_free(self) -> None:
        now = self.world.loop.time()
        longest = TAKEN_WITHIN if self.is_well else TAKEN_WITHIN_IN_TROUBLE
        for key in {call.key for call in self.calls}:
            waiting = [call for call in self.calls if call.key == key and not call.machine.is_in_trouble]
            if not waiting or self.world.server.is_down or len(self._holders(key)) >= waiting[0].most:
                self._free_since.pop(key, None)
            elif now - max(waiting[0].began, self._free_since.setdefault(key, now)) > longest:
                raise Broken(
                    f"{key!r} has been free for {now - self._free_since[key]:.1f} s, and somebody waits for it"
                )

    def look_when_all_have_ended(self) -> None:
        """What was given up is not held."""
        held = {key: holders for key in self.fences if (holders := self._holders(key))}
        if self.is_quiet and held:
            raise Broken(f"nobody wants anything, and this is held: {held}")

    def look_in_the_end(self) -> None:
        """Every call has ended, and nothing is left in Redis but what tells of the last fence."""
        for call in self.calls:
            if not call.machine.is_dead:
                raise Broken(f"a call for {call.key!r} on {call.machine} has never ended")
        if left := self._left():
            raise Broken(f"left in Redis: {left}")

    def _left(self) -> list[bytes]:
        return [key for key in self.world.server.engine.known() if key != PREFIX + b"<index>"]


def _said(holders: Sequence[tuple[Held, Lease]]) -> str:
    return ", ".join(f"{held.machine} (fence {lease.fence}, {lease.remaining:.3f} s)" for held, lease in holders)
