"""The protocol as a state machine: random histories of a few clients against real scripts, held to a small model."""

from __future__ import annotations

import itertools
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
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

from django_locksmith import forks, tokens
from django_locksmith.policy.sync_bridge import run_sync
from django_locksmith.redis import lock_requests
from django_locksmith.redis.connections import open_deployment
from django_locksmith.redis.key_names import Slots
from django_locksmith.redis.lock_store import LockStore
from django_locksmith.redis.lua import OF_LOCK, OF_SLOTS
from django_locksmith.redis.messages import Attempt, Busy, Granted, Refused
from django_locksmith.redis.packing import request
from django_locksmith.redis.sync_transport import SyncTransport
from django_locksmith.tokens import HANDED_OVER, new_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.deployments import Deployment

CLIENTS = 4
CLAIM_WITHIN_MS = 60_000
LEASE_MS = 60_000
clients = st.integers(0, CLIENTS - 1)


class Image:
    """What a process knows of itself, as tokens are made of it."""

    running_pid = 0

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.forks = {"pid": pid, "generation": 0}
        self.process: dict[str, Any] = {**vars(tokens._Process()), "random": f"{pid:024x}"}
        self.thread: Any = ("", iter(()), "")

    def copy(self, pid: int) -> Image:
        """As a fork makes it."""
        child = Image(pid)
        child.forks = dict(self.forks)
        following = int(re.findall(r"\d+", repr(self.process["count"]))[0])
        numbers = itertools.count(following)
        child.process = {**self.process, "count": numbers}
        random, _, place = self.thread
        child.thread = (random, numbers, place)
        return child

    @contextmanager
    def running(self) -> Iterator[None]:
        """This process is the one that runs now."""
        Image.running_pid = self.pid
        vars(forks.state).update(self.forks)
        vars(tokens.process).clear()
        vars(tokens.process).update(self.process)
        tokens._thread.place = self.thread
        yield
        self.forks = {"pid": forks.state.pid, "generation": forks.state.generation}
        self.process = dict(vars(tokens.process))
        self.thread = tokens._thread.place


class Protocol(RuleBasedStateMachine):
    """Clients that try, wait, are woken, give up, hang, die, and whose messages come late or twice.

    A client is "idle", "queued" (it stands in Redis' queue), "woken" (it took a baton and its claim is under way),
    "holding", or "gone" (killed; what it sent may still arrive).
    """

    store: LockStore
    client: Any
    slots: Slots | None
    """How many may hold it; `None`: one."""

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.names = self.store.names("a").with_slots(self.slots)
        self.most = self.slots.most if self.slots else 1
        self.processes = [Image(1), Image(2)]
        self.made: set[bytes] = set()
        self.given_up: list[Attempt] = []
        self.stale: list[Attempt] = []
        self.forgotten: set[int] = set()
        self.attempts = [self._new_attempt(number) for number in range(CLIENTS)]
        self.state = ["idle"] * CLIENTS
        self.fences = [0]
        self.slot_of = [""] * CLIENTS

    def _new_attempt(self, number: int) -> Attempt:
        """The next one of a client; every other client is in the second process."""
        with self.processes[number % 2].running():
            forks.generation()
            token = new_token().encode()
        assert token.split(b"|")[0] not in {each.split(b"|")[0] for each in self.made}, "one token made twice"
        self.made.add(token)
        self.forgotten.discard(number)
        return Attempt(self.names, token, LEASE_MS / 1000, 5.0)

    def _take(self, number: int, answer: Any) -> None:
        """A client got an answer."""
        if isinstance(answer, Granted):
            others = [each for each in self._holding() if each != number]
            assert len(others) < self.most, "too many holders"
            slot = self.attempts[number].slot
            assert not slot or slot not in [self.attempts[each].slot for each in others], "one slot for two"
            if self.state[number] != "holding":
                assert answer.fence > self.fences[-1], "a fence that does not grow"
                self.slot_of[number] = slot
            assert slot == self.slot_of[number], "another slot than before"
            self.fences.append(answer.fence)
            self.state[number] = "holding"

    def _holding(self) -> list[int]:
        return [number for number in range(CLIENTS) if self.state[number] == "holding"]

    def _ask(self, number: int, wait: float, mode: Any) -> Any:
        answer = run_sync(self.store.acquire(self.attempts[number], wait, mode))
        if mode in ("try", "again"):
            self.forgotten.discard(number)
        self._take(number, answer)
        return answer

    # ---- what Redis knows

    def _members(self) -> dict[str, float]:
        return dict(self.client.zrange("__locksmith:a", 0, -1, withscores=True))

    def _holders(self) -> set[str]:
        """The tokens of all whose leases have not ended."""
        if self.slots is None:
            return {self.client.get("__locksmith:a")} - {None, HANDED_OVER}
        return {token for token, ends in self._members().items() if self._server_us() // 1000 + 1 <= ends < 1e14}

    def _handed(self) -> list[str]:
        """What stands there for those who are to have it next."""
        if self.slots is None:
            return [HANDED_OVER] if self.client.get("__locksmith:a") == HANDED_OVER else []
        now = self._server_us() // 1000
        return [mark for mark, ends in self._members().items() if ends < -now]

    def _owners(self) -> tuple[set[str], int]:
        return self._holders(), len(self._handed())

    def _end(self, token: str) -> None:
        """The time of a holder, or of one that it is handed over to, runs out."""
        if self.slots is None:
            self.client.delete("__locksmith:a")
        elif (ends := self._members().get(token)) is not None:
            self.client.zadd("__locksmith:a", {token: (self._server_us() // 1000 - 1) * (1 if ends > 0 else -1)})

    # ---- what clients do

    @initialize(crowded=st.booleans())
    def begin(self, crowded: bool) -> None:
        """All want it at once, or nobody does yet: from a queue more can happen."""
        for number in range(CLIENTS) if crowded else ():
            self.try_it(number, 5.0)

    @rule(number=clients, wait=st.sampled_from([0.0, 5.0]))
    def try_it(self, number: int, wait: float) -> None:
        """A first request."""
        if self.state[number] != "idle":
            return
        answer = self._ask(number, wait, "try")
        if isinstance(answer, Busy) and wait:
            self.state[number] = "queued"

    @rule(number=clients)
    def ask_again(self, number: int) -> None:
        """A request repeated because its reply was lost."""
        if self.state[number] in ("queued", "holding"):
            assert not isinstance(self._ask(number, 5.0, "again"), Refused)

    @rule(number=clients)
    def look_on_the_side(self, number: int) -> None:
        """A waiter's probe takes a lock that is gone, and never one that is handed to another."""
        if self.state[number] == "queued":
            full = len(self._holders()) + len(self._handed()) >= self.most
            answer = self._ask(number, 5.0, "probe")
            assert not (full and isinstance(answer, Granted))
            # Refused, after a restart that has forgotten it, it asks again.
            assert not isinstance(answer, Refused) or number in self.forgotten
            if isinstance(answer, Refused):
                self._ask(number, 5.0, "again")

    @rule(number=clients)
    def wake_up(self, number: int) -> None:
        """Redis gives a waiter the baton, if one lies there."""
        if self.state[number] == "queued" and self.client.lpop("__locksmith:<baton>a"):
            self.state[number] = "woken"

    @rule(number=clients)
    def claim(self, number: int) -> None:
        """The claim of a waiter that was woken, or whose time is over."""
        if self.state[number] in ("woken", "queued"):
            answer = self._ask(number, 0.0, "claim")
            if not isinstance(answer, Granted):
                self.state[number] = "idle"
                self.attempts[number] = self._new_attempt(number)

    @rule(number=clients)
    def release(self, number: int) -> None:
        """The holder releases; anybody else's release frees nothing."""
        before = self._owners()
        freed = run_sync(self.store.release(self.attempts[number]))
        assert freed == (self.state[number] == "holding")
        if freed:
            self.state[number] = "idle"
            self.attempts[number] = self._new_attempt(number)
        else:
            assert self._owners() == before

    @rule(number=clients)
    def abandon(self, number: int) -> None:
        """A client gives up, in whatever state it is; nobody else's lock is freed by it."""
        before = self._owners()
        run_sync(self.store.abandon(self.attempts[number]))
        if self.state[number] != "holding" and not before[1]:
            assert self._owners() == before
        self.given_up.append(self.attempts[number])
        self.state[number] = "idle"
        self.attempts[number] = self._new_attempt(number)

    @rule(number=clients)
    def late_messages(self, number: int) -> None:
        """What a client sent before it gave up arrives afterwards, and its connection has swallowed the baton."""
        late = Attempt(self.names, b"gone", 60.0, 5.0)
        before = self._owners()
        self.client.lpop("__locksmith:<baton>a")
        assert isinstance(run_sync(self.store.acquire(late, 0.0, "claim")), Refused)
        assert isinstance(run_sync(self.store.acquire(late, 5.0, "probe")), Refused)
        if not before[1]:
            assert self._owners() == before

    @rule(number=clients, mode=st.sampled_from(["try", "again", "probe"]), wait=st.sampled_from([0.0, 5.0]))
    def late_request(self, number: int, mode: Any, wait: float) -> None:
        """A request that its sender has given up arrives, while the sender goes on with the token: nothing changes."""
        attempt = self.attempts[number]
        before = self._everything()
        late = lock_requests.acquire(attempt, wait, mode, self._server_us() - 1, full=True)
        assert run_sync(self.store.transport.call(self.names.lock, late)) == [-2]
        extension = request(
            self.names.scripts.extend,
            self.names,
            attempt.token,
            b"1",
            b"%d" % (self._server_us() - 1),
            b"set",
            full=True,
        )
        assert run_sync(self.store.transport.call(self.names.lock, extension)) == -2
        assert self._everything() == before

    @precondition(lambda self: self.given_up)
    @rule(mode=st.sampled_from(["try", "again", "probe"]), wait=st.sampled_from([0.0, 5.0]))
    def late_request_and_its_undo(self, mode: Any, wait: float) -> None:
        """What a client had sent when it was interrupted arrives, and the undo behind it: nobody notices."""
        attempt = self.given_up.pop()
        before = self._owners()
        late = lock_requests.acquire(attempt, wait, mode, self._server_us() - 1, full=True)
        assert run_sync(self.store.transport.call(self.names.lock, late)) == [-2]
        run_sync(self.store.abandon(attempt))
        if not before[1]:
            assert self._owners() == before

    @rule()
    def fork_in_c(self) -> None:
        """The second process is now a copy of the first, and no hook of Python has run."""
        self.processes[1] = self.processes[0].copy(3 + len(self.made))

    @precondition(lambda self: "holding" in self.state)
    @rule()
    def restart(self) -> None:
        """The server restarts without its data and scripts; nobody tells its clients, some of whom hold the lock."""
        self.client.flushall()
        self.client.script_flush()
        self.forgotten = {each for each in range(CLIENTS) if self.state[each] in ("queued", "woken")}
        for number in self._holding():
            self.stale.append(self.attempts[number])
            self.state[number] = "idle"
            self.attempts[number] = self._new_attempt(number)

    @precondition(lambda self: self.stale)
    @rule()
    def holder_of_before(self) -> None:
        """Who held the lock before a restart hears that it is lost, and takes it from nobody."""
        attempt = self.stale.pop()
        before = self._owners()
        assert run_sync(self.store.extend(attempt, 60_000, "set"))[1] == 0
        assert run_sync(self.store.release(attempt)) is False
        assert self._owners() == before

    def _server_us(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1_000_000 + int(micros)

    def _everything(self) -> dict[str, Any]:
        """All that stands in Redis."""
        readers = {"string": "get", "zset": "zscan", "list": "llen", "hash": "hgetall"}
        return {key: getattr(self.client, readers[self.client.type(key)])(key) for key in self.client.keys("*")}

    @rule(number=clients)
    def unheard_of(self, number: int) -> None:
        """A waiter that was not heard of for long counts as dead, while it is still blocked: its claim is refused."""
        if self.state[number] in ("woken", "queued"):
            self.client.zincrby("__locksmith:<queue>a", -30_000 - CLAIM_WITHIN_MS, self.attempts[number].token)
            assert isinstance(self._ask(number, 0.0, "claim"), Refused)
            self.state[number] = "idle"
            self.attempts[number] = self._new_attempt(number)

    @rule(number=clients)
    def extend(self, number: int) -> None:
        """Only the holder's lease can be extended."""
        _, left = run_sync(self.store.extend(self.attempts[number], 60_000, "set"))
        assert bool(left) == (self.state[number] == "holding")

    # ---- what befalls them

    @rule(number=clients)
    def die(self, number: int) -> None:
        """A client is killed: a holder's lock stays until its lease ends, a waiter's place until it counts as dead."""
        if self.state[number] == "holding":
            self._end(self.attempts[number].token.decode())
        elif self.state[number] == "woken":
            for mark in self._handed()[:1]:  # the time to claim it runs out
                self._end(mark)
        elif self.state[number] == "queued":
            self.client.zrem("__locksmith:<queue>a", self.attempts[number].token)
        self.state[number] = "idle"
        self.attempts[number] = self._new_attempt(number)

    @precondition(lambda self: "holding" in self.state)
    @rule()
    def lease_ends(self) -> None:
        """The holder's lease ends under it."""
        number = self.state.index("holding")
        self._end(self.attempts[number].token.decode())
        self.state[number] = "idle"
        self.attempts[number] = self._new_attempt(number)

    @rule()
    def flush(self) -> None:
        """Somebody clears the database: everybody starts anew."""
        self.client.flushall()
        self.state = ["idle"] * CLIENTS
        self.attempts = [self._new_attempt(number) for number in range(CLIENTS)]

    # ---- what is always so

    @invariant()
    def redis_knows_the_holder(self) -> None:
        """Who believes to hold the lock is who Redis says holds it."""
        assert {self.attempts[number].token.decode() for number in self._holding()} == self._holders()
        assert len(self._holders()) + len(self._handed()) <= self.most

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """What is handed over has a baton on its way: lying there, or with a waiter that was woken."""
        on_their_way = self.client.llen("__locksmith:<baton>a") + self.state.count("woken")
        assert min(len(self._handed()), self.state.count("queued")) <= on_their_way

    @invariant()
    def everything_expires(self) -> None:
        """Every key but the index, which keeps the last fence, has an expiry."""
        for key in self.client.keys("*"):
            assert key == "__locksmith:<index>" or self.client.pttl(key) > 0

    def teardown(self) -> None:
        """When everybody has given up, nothing is left behind."""
        for ask in self.attempts:
            run_sync(self.store.abandon(ask))
        left = {key for key in self.client.keys("*") if key != "__locksmith:<index>"}
        # Lifetimes are the server's business: what is handed to a waiter who has died ends with the time to claim. The
        # key of slots lives as long as the longest lease that was in it, and a quarter more.
        assert not self._holders()
        longest = CLAIM_WITHIN_MS if self.slots is None else 1.25 * (LEASE_MS + 1) + 1
        assert all(0 < self.client.pttl(key) <= longest for key in left), left


@pytest.fixture
def unhurried() -> Iterator[None]:
    """A woken waiter has a minute to claim the lock, not a second, for which a busy machine may stand still."""
    scripts = {*OF_LOCK[:4], *OF_SLOTS[:4]}  # those that acquire and release
    before = {script: (script.text, script.digest) for script in scripts}
    for script, (text, _) in before.items():
        assert b"CLAIM_WITHIN_MS = 1000\n" in text
        slow = text.replace(b"CLAIM_WITHIN_MS = 1000\n", b"CLAIM_WITHIN_MS = %d\n" % CLAIM_WITHIN_MS)
        object.__setattr__(script, "text", slow)
        script.__post_init__()
    yield
    for script, (text, digest) in before.items():
        object.__setattr__(script, "text", text)
        object.__setattr__(script, "digest", digest)


KINDS = {
    "lock": None,
    "one of a list": Slots(1, ("x",), b'["x"]'),
    "two": Slots(2),
    "three of a list": Slots(3, ("x", "y", "z"), b'["x", "y", "z"]'),
}


@pytest.fixture(params=KINDS)
def machine(
    request: pytest.FixtureRequest, valkey: Deployment, unhurried: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Protocol]]:
    monkeypatch.setattr(forks, "_getpid", lambda: Image.running_pid)
    monkeypatch.setattr(forks.state, "hooks", [tokens.process.__init__])  # type: ignore[misc]  # as `tokens` does
    for name, value in {**vars(forks.state)}.items():
        monkeypatch.setattr(forks.state, name, value)
    for name, value in vars(tokens.process).items():
        monkeypatch.setattr(tokens.process, name, value)
    monkeypatch.setattr(tokens._thread, "place", tokens._thread.place)
    store = LockStore(SyncTransport(open_deployment(valkey.server.url)), "__locksmith:")
    with valkey.server.client() as client:
        yield type("Machine", (Protocol,), {"store": store, "client": client, "slots": KINDS[request.param]})


def test_protocol(machine: Any) -> None:
    """Never too many holders; fences grow; nobody frees another's lock, or waits for nothing; nothing is left."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=checks),
    )
