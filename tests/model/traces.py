"""What simulated processes do with a lock, as steps that the model is to follow."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

from django_locksmith.redis.lua import OF_LOCK
from django_locksmith.tokens import HANDED_OVER
from tests.sim.engine import Engine
from tests.sim.play import play
from tests.sim.terms import Terms
from tests.sim.values import SortedSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CALLS: dict[str, int] = {"try": 1, "again": 2, "probe": 3, "claim": 4, "release": 5, "abandon": 6}
ANSWERS: dict[int, int] = {1: 1, 0: 2, -1: 3, -2: 4}
"""Of the script that acquires."""
TOO_LATE, RELEASED, NOT_HELD = 4, 5, 6
FREE, HANDED = 0, 200
OUT, ALIVE, SILENT, DEAD = range(4)
MOST_BATONS = 2
LATE_BY_MS = 1000
"""A claim that comes so much later is too late."""
TOKENS = 24
"""As in traces.pml: whoever is named in one piece of a trace."""


class State(NamedTuple):
    """What Redis has. `holder`: a token, or one of the two words. `queue`: token -> one of the four."""

    holder: bytes | int
    batons: int
    queue: dict[bytes, int]


class Step(NamedTuple):
    """A call of a script, and what Redis had before and after."""

    key: bytes
    what: str
    token: bytes
    waits: bool
    answer: int
    before: State
    after: State


def state_of(engine: Engine, lock: bytes, queue: bytes, baton: bytes) -> State | None:
    """What it has of this lock; `None` if that is no lock."""
    value: Any = engine.data[lock] if engine.has(lock) else None
    if value is not None and not isinstance(value, bytes):
        return None
    now = engine.now_ms()
    waiting = engine.get(queue, SortedSet)
    places = {} if waiting is None else {token: _place(until, now) for until, token in waiting.order}
    lying = engine.get(baton, deque)
    return State(
        FREE if value is None else HANDED if value == HANDED_OVER.encode() else value,
        min(len(lying or ()), MOST_BATONS),
        places,
    )


def _place(until: float, now: int) -> int:
    if until > now:
        return ALIVE
    return SILENT if until + LATE_BY_MS > now else DEAD


@dataclass
class Recorder:
    """Stands in for `Engine.execute`."""

    execute: Any
    steps: list[Step]

    def __call__(self, engine: Engine, command: list[bytes]) -> Any:
        call = _call(command)
        if call is None:
            return self.execute(engine, command)
        what, lock, queue, baton, token, waits = call
        before = state_of(engine, lock, queue, baton)
        reply = self.execute(engine, command)
        after = state_of(engine, lock, queue, baton)
        if before is not None and after is not None:
            answer = ANSWERS.get(reply[0]) if isinstance(reply, list) else (RELEASED if reply else NOT_HELD)
            if answer is not None:  # -3: slots
                self.steps.append(Step(lock, what, token, waits, answer, before, after))
        return reply


def _call(command: list[bytes]) -> tuple[str, bytes, bytes, bytes, bytes, bool] | None:
    if command[0] not in (b"EVAL", b"EVALSHA"):
        return None
    acquires = command[1] in (OF_LOCK.acquire.digest, OF_LOCK.acquire.text)
    if not acquires and command[1] not in (OF_LOCK.release.digest, OF_LOCK.release.text):
        return None
    many = int(command[2])
    keys, (token, *more) = command[3 : 3 + many], command[3 + many :]
    if not acquires:
        return "abandon" if more else "release", keys[0], keys[1], keys[2], token, False
    waits, mode = (int(more[2]) > 0, more[3].decode()) if len(more) > 2 else (True, "try")
    return mode, keys[0], keys[1], keys[2], token, waits


def recorded(seed: int) -> list[Step]:
    """What a play does; nothing if it is one in which the server loses what it has, or its clock is set."""
    terms = Terms.of(seed)
    if {"lose_data", "set_clock"} & set(terms.faults):
        return []
    recorder = Recorder(Engine.execute, [])
    with patch.object(Engine, "execute", lambda engine, command: recorder(engine, command)):
        play(terms)
    return recorder.steps


# ---- as steps of traces.pml

Row = tuple[int, int, int, int]
"""What, who, a number, the answer."""


def rows(steps: Sequence[Step]) -> Iterator[Row]:
    """Of all locks, one after the other, in pieces in which no more tokens are named than the model knows."""
    for key in sorted({step.key for step in steps}):
        piece: list[Step] = []
        for step in (step for step in steps if step.key == key):
            if len(_named([*piece, step])) > TOKENS:
                yield from _rows_of(piece)
                piece = []
            piece.append(step)
        yield from _rows_of(piece)


def _named(steps: Sequence[Step]) -> dict[bytes, int]:
    names: dict[bytes, int] = {}
    for step in steps:
        for state in (step.before, step.after):
            for token in (*([state.holder] if isinstance(state.holder, bytes) else []), *state.queue):
                names.setdefault(token, len(names) + 1)
        names.setdefault(step.token, len(names) + 1)
    return names


def _rows_of(steps: Sequence[Step]) -> Iterator[Row]:
    numbers = _named(steps)

    def number(holder: bytes | int) -> int:
        return numbers[holder] if isinstance(holder, bytes) else holder

    known: State | None = None
    for step in steps:
        if known is None:
            yield 20, 0, 0, 0
            yield 21, 0, number(step.before.holder), 0
            yield 22, 0, step.before.batons, 0
            for token, place in step.before.queue.items():
                yield 23, numbers[token], place, 0
        else:
            yield from _what_has_ended(known, step.before, numbers)
        if step.answer != TOO_LATE:  # as if it had never come
            yield CALLS[step.what], numbers[step.token], int(step.waits), step.answer
        known = step.after
        yield 31, 0, number(known.holder), 0
        yield 32, 0, known.batons, 0
        for token, which in numbers.items():
            yield 33, which, known.queue.get(token, OUT), 0


def _what_has_ended(then: State, now: State, numbers: dict[bytes, int]) -> Iterator[Row]:
    """By itself, or taken by a BLPOP. What cannot be said so, the next step contradicts."""
    if then.holder != now.holder and now.holder == FREE:
        yield 10, 0, 0, 0
    for token, place in then.queue.items():
        reached = now.queue.get(token, DEAD)  # a queue that is gone has only such as are
        if place == ALIVE and reached in (SILENT, DEAD):
            yield 13, numbers[token], 0, 0
        if place in (ALIVE, SILENT) and reached == DEAD:
            yield 14, numbers[token], 0, 0
    if then.queue and not now.queue:
        yield 15, 0, 0, 0
    if then.batons and not now.batons:
        yield 12 if then.batons > 1 else 11, 0, 0, 0
    elif then.batons > now.batons:
        yield 11, 0, 0, 0


def as_c(steps: Sequence[Row]) -> str:
    """The file that traces.pml includes."""
    lines = ",\n".join(f"{{{what}, {who}, {number}, {answer}}}" for what, who, number, answer in steps)
    return f"#define STEPS {len(steps)}\nstatic const unsigned char step[STEPS][4] = {{\n{lines}\n}};\n"
