"""The commands of the engine: those that the package uses, as Redis has them."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from .values import OK, Refusal, Reply, SortedSet, Status, Stream, score_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from .engine import Engine

COMMANDS: dict[bytes, Callable[..., Reply]] = {}


def command(run: Callable[..., Reply]) -> Callable[..., Reply]:
    """One of them, by its name."""
    COMMANDS[run.__name__.strip("_").upper().encode()] = run
    return run


def number(text: bytes) -> int:
    """Raises `Refusal`."""
    try:
        return int(text)
    except ValueError:
        raise Refusal("ERR value is not an integer or out of range") from None


@command
def time(engine: Engine) -> Reply:
    seconds, micros = divmod(engine.now_us(), 1_000_000)
    return [b"%d" % seconds, b"%d" % micros]


@command
def get(engine: Engine, key: bytes) -> Reply:
    return engine.get(key, bytes)


@command
def _set(engine: Engine, key: bytes, value: bytes, *options: bytes) -> Reply:
    words = [option.upper() for option in options]
    if b"NX" in words and engine.has(key):
        return None
    engine._delete(key)
    engine.data[key] = bytes(value)
    if b"PX" in words:
        engine.expires[key] = engine.now_ms() + number(options[words.index(b"PX") + 1])
    return OK


@command
def _del(engine: Engine, *keys: bytes) -> Reply:
    return sum(engine.has(key) and engine._delete(key) for key in keys)


@command
def exists(engine: Engine, *keys: bytes) -> Reply:
    return sum(engine.has(key) for key in keys)


@command
def pexpire(engine: Engine, key: bytes, ms: bytes) -> Reply:
    if not engine.has(key):
        return 0
    left = number(ms)
    if left <= 0:
        engine._delete(key)
    else:
        engine.expires[key] = engine.now_ms() + left
    return 1


@command
def pttl(engine: Engine, key: bytes) -> Reply:
    if not engine.has(key):
        return -2
    until = engine.expires.get(key)
    return -1 if until is None else until - engine.now_ms()


@command
def _type(engine: Engine, key: bytes) -> Reply:
    kinds = {bytes: b"string", SortedSet: b"zset", deque: b"list", dict: b"hash", Stream: b"stream"}
    return Status(kinds[type(engine.data[key])] if engine.has(key) else b"none")


@command
def keys(engine: Engine, pattern: bytes) -> Reply:
    wanted = re.compile(re.escape(pattern).replace(rb"\*", b".*"), re.DOTALL)
    return [key for key in engine.known() if wanted.fullmatch(key)]


@command
def flushall(engine: Engine) -> Reply:
    engine.data.clear()
    engine.expires.clear()
    return OK


# ---- sorted sets


def _score(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        raise Refusal("ERR value is not a valid float") from None


def _bound(text: bytes) -> tuple[float, bool]:
    exclusive = text.startswith(b"(")
    return _score(text[1:] if exclusive else text), exclusive


def _between(found: SortedSet, low: bytes, high: bytes) -> list[tuple[float, bytes]]:
    (least, above), (most, below) = _bound(low), _bound(high)
    return [
        (score, member)
        for score, member in found.order
        if (score > least if above else score >= least) and (score < most if below else score <= most)
    ]


@command
def zadd(engine: Engine, key: bytes, *rest: bytes) -> Reply:
    words = list(rest)
    flags = set()
    while words and words[0].upper() in (b"GT", b"LT", b"NX", b"XX", b"CH"):
        flags.add(words.pop(0).upper())
    pairs = [(_score(words[at]), words[at + 1]) for at in range(0, len(words), 2)]
    found: SortedSet = engine._make(key, SortedSet)
    added = changed = 0
    for score, member in pairs:
        before = found.scores.get(member)
        if before is None:
            if b"XX" not in flags:
                found.put(member, score)
                added += 1
        elif b"NX" not in flags and not (b"GT" in flags and score <= before) and score != before:
            found.put(member, score)
            changed += 1
    engine._tidy(key)
    return added + changed if b"CH" in flags else added


@command
def zrem(engine: Engine, key: bytes, *members: bytes) -> Reply:
    found = engine.get(key, SortedSet)
    dropped = sum(found.drop(member) for member in members) if found else 0
    engine._tidy(key)
    return dropped


@command
def zscore(engine: Engine, key: bytes, member: bytes) -> Reply:
    found = engine.get(key, SortedSet)
    score = found.scores.get(member) if found else None
    return None if score is None else score_text(score)


@command
def zcard(engine: Engine, key: bytes) -> Reply:
    return len(engine.get(key, SortedSet) or ())


@command
def zcount(engine: Engine, key: bytes, low: bytes, high: bytes) -> Reply:
    found = engine.get(key, SortedSet)
    return len(_between(found, low, high)) if found else 0


@command
def zremrangebyscore(engine: Engine, key: bytes, low: bytes, high: bytes) -> Reply:
    found = engine.get(key, SortedSet)
    gone = _between(found, low, high) if found else []
    for _, member in gone:
        found.drop(member)
    engine._tidy(key)
    return len(gone)


@command
def zpopmin(engine: Engine, key: bytes, count: bytes = b"1") -> Reply:
    found = engine.get(key, SortedSet)
    popped = found.order[: number(count)] if found else []
    for _, member in popped:
        found.drop(member)
    engine._tidy(key)
    return [part for score, member in popped for part in (member, score_text(score))]


@command
def zrange(engine: Engine, key: bytes, first: bytes, last: bytes, *options: bytes) -> Reply:
    words = [option.upper() for option in options]
    found = engine.get(key, SortedSet)
    if found is None:
        return []
    if b"BYSCORE" in words:
        low, high = (last, first) if b"REV" in words else (first, last)
        chosen = _between(found, low, high)
        if b"REV" in words:
            chosen.reverse()
    else:
        ordered = found.order[::-1] if b"REV" in words else found.order
        start, stop = _part(len(ordered), first, last)
        chosen = ordered[start : stop + 1]
    if b"LIMIT" in words:
        skip, most = (number(options[words.index(b"LIMIT") + each]) for each in (1, 2))
        chosen = chosen[skip:] if most < 0 else chosen[skip : skip + most]
    if b"WITHSCORES" in words:
        return [part for score, member in chosen for part in (member, score_text(score))]
    return [member for _, member in chosen]


@command
def zrandmember(engine: Engine, key: bytes, count: bytes) -> Reply:
    found = engine.get(key, SortedSet)
    return [member for _, member in found.order[: number(count)]] if found else []


# ---- lists


@command
def rpush(engine: Engine, key: bytes, *values: bytes) -> Reply:
    found = engine._make(key, deque)
    found.extend(values)
    engine.touched.add(key)
    return len(found)


@command
def lpop(engine: Engine, key: bytes) -> Reply:
    found = engine.get(key, deque)
    value = found.popleft() if found else None
    engine._tidy(key)
    return value


@command
def rpop(engine: Engine, key: bytes) -> Reply:
    found = engine.get(key, deque)
    value = found.pop() if found else None
    engine._tidy(key)
    return value


@command
def llen(engine: Engine, key: bytes) -> Reply:
    return len(engine.get(key, deque) or ())


@command
def lindex(engine: Engine, key: bytes, at: bytes) -> Reply:
    found = engine.get(key, deque)
    try:
        return found[number(at)] if found else None
    except IndexError:
        return None


def _part(size: int, first: bytes, last: bytes) -> tuple[int, int]:
    start, stop = number(first), number(last)
    return max(0, start + size) if start < 0 else start, stop + size if stop < 0 else stop


@command
def lrange(engine: Engine, key: bytes, first: bytes, last: bytes) -> Reply:
    found = list(engine.get(key, deque) or ())
    start, stop = _part(len(found), first, last)
    return found[start : stop + 1]


@command
def ltrim(engine: Engine, key: bytes, first: bytes, last: bytes) -> Reply:
    found = engine.get(key, deque)
    if found is not None:
        start, stop = _part(len(found), first, last)
        engine.data[key] = deque(list(found)[start : stop + 1])
        engine._tidy(key)
    return OK


# ---- hashes and streams


@command
def hset(engine: Engine, key: bytes, *pairs: bytes) -> Reply:
    found: dict[bytes, bytes] = engine._make(key, dict)
    new = 0
    for at in range(0, len(pairs), 2):
        new += pairs[at] not in found
        found[pairs[at]] = pairs[at + 1]
    return new


@command
def hget(engine: Engine, key: bytes, field: bytes) -> Reply:
    return (engine.get(key, dict) or {}).get(field)


def entry_number(text: bytes) -> tuple[int, int]:
    """Of a stream."""
    first, _, second = text.partition(b"-")
    return number(first), number(second or b"0")


@command
def xadd(engine: Engine, key: bytes, *words: bytes) -> Reply:
    most = number(words[1]) if words[0].upper() == b"MAXLEN" else None
    name, *fields = words[2:] if most is not None else words
    found: Stream = engine._make(key, Stream)
    last = found[-1][0] if found else (0, 0)
    if name == b"*":
        now = engine.now_ms()
        this = (now, 0) if now > last[0] else (last[0], last[1] + 1)
    else:
        this = entry_number(name)
    if this <= last:
        raise Refusal("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    found.append((this, fields))
    if most is not None:
        del found[:-most]
    engine.touched.add(key)
    return b"%d-%d" % this


def entries(found: list[tuple[tuple[int, int], list[bytes]]]) -> Reply:
    """As they are answered."""
    return [[b"%d-%d" % this, fields] for this, fields in found]


@command
def xrevrange(engine: Engine, key: bytes, last: bytes, first: bytes, *options: bytes) -> Reply:
    if (last, first) != (b"+", b"-"):
        raise Refusal("ERR this engine knows XREVRANGE + - only")
    found = list(reversed(engine.get(key, Stream) or ()))
    return entries(found[: number(options[1])] if options else found)
