"""Faults that are put into the code on purpose: a simulation that does not find them proves nothing.

python -m tests.sim --mutants          # how many schedules it takes to find each
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from hashlib import sha1
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

from django_locksmith.api import lease_state, rate_limit
from django_locksmith.policy import locks, straight
from django_locksmith.redis import async_transport, lua, sync_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


class Mutant(NamedTuple):
    """`breaks`: what is promised, and holds no more."""

    name: str
    breaks: str
    install: Callable[[], AbstractContextManager[Any]]


def _script(old: str, new: str) -> Callable[[], AbstractContextManager[Any]]:
    """All scripts that have this text have the other one."""

    @contextmanager
    def install() -> Iterator[None]:
        found = {
            script for script in vars(lua).values() if isinstance(script, lua.Script) and old.encode() in script.text
        }
        assert found, f"no script says {old!r}"
        kept = [(script, script.text, script.digest) for script in found]
        for script, text, _ in kept:
            changed = text.replace(old.encode(), new.encode())
            object.__setattr__(script, "text", changed)
            object.__setattr__(script, "digest", sha1(changed, usedforsecurity=False).hexdigest().encode())
        try:
            yield
        finally:
            for script, text, digest in kept:
                object.__setattr__(script, "text", text)
                object.__setattr__(script, "digest", digest)

    return install


def _code(*patches: tuple[Any, str, Any]) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def install() -> Iterator[None]:
        with ExitStack() as stack:
            for place, name, instead in patches:
                stack.enter_context(patch.object(place, name, instead))
            yield

    return install


def _from_the_reply(store: Any, attempt: Any, granted: Any) -> float:
    deadline: float = store.now() + attempt.lease - locks.caution(attempt.lease)
    return deadline


def _renewed_from_the_reply(sent: float, left: Any) -> Any:
    if isinstance(left, BaseException):
        return locks.Renewal.UNKNOWN, left
    return (locks.Renewal.RENEWED, sent + 4.0 + left - locks.caution(left)) if left else (locks.Renewal.LOST, 0.0)


def _at_the_end(store: Any, until: float, seen: Any) -> float:
    return max(0.0, until - store.now()) + locks.LATE_BY


async def _nothing(*_: Any) -> None:
    pass


_ONE, _IN_TIME, _IN_TURN = "one holder", "a holder stops believing before its lease ends", "a lock goes to who waits"
_GIVEN_UP, _MOST = "who has given up, or back, gets nothing any more", "never more than N"

MUTANTS = (
    Mutant(
        "release frees whatever is there",
        "nobody's release frees another's lock",
        _script("local held = redis.call('GET', lock) == token", "local held = redis.call('EXISTS', lock) == 1"),
    ),
    Mutant(
        "renewal makes a lease anew",
        "a renewal never makes a lease",
        _script(
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end",
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end",
        ),
    ),
    Mutant("taken though it is held", _ONE, _script("ARGV[1], 'NX', 'PX', ARGV[2])", "ARGV[1], 'PX', ARGV[2])")),
    Mutant(
        "deadline from the reply",
        _IN_TIME,
        _code((locks, "surely_until", _from_the_reply), (straight, "surely_until", _from_the_reply)),
    ),
    Mutant("renewed from the reply", _IN_TIME, _code((locks, "_renewal", _renewed_from_the_reply))),
    Mutant(
        "the deadline is not looked at",
        _IN_TIME,
        _code((lease_state.LeaseState, "_is_in_time", lambda self: True)),
    ),
    Mutant("no probe", _IN_TURN, _code((locks, "until_next_probe", _at_the_end))),
    Mutant(
        "no marker",
        _IN_TURN,
        _script("  redis.call('SET', lock, HANDED_OVER, 'PX', CLAIM_WITHIN_MS)\n", "  redis.call('DEL', lock)\n"),
    ),
    Mutant(
        "nobody looks whether others wait",
        _IN_TURN,
        _script("if held and redis.call('EXISTS', queue) == 0 then", "if held then"),
    ),
    Mutant(
        "claim without a place",
        _GIVEN_UP,
        _script("if (mode == 'claim' or mode == 'probe') and not queued and holder ~= token then", "if false then"),
    ),
    Mutant(
        "a baton that was swallowed is lost",
        _IN_TURN,
        _script("  elseif redis.call('EXISTS', baton) == 0 then\n    lay_baton(baton)\n  end", "  end"),
    ),
    Mutant("withdraw does nothing", _GIVEN_UP, _code((locks, "withdraw", _nothing))),
    Mutant(
        "requests are valid for ever",
        _GIVEN_UP,
        _script("if now > tonumber(ARGV[3]) then return {-2} end", ""),
    ),
    Mutant(
        "undone, while its token lives on",
        "a request whose reply was lost is asked again, and not undone",
        _code((sync_transport, "FAILURES", ()), (async_transport, "FAILURES", ())),
    ),
    Mutant(
        "asked again, it waits for itself",
        "a grant whose reply was lost is found again",
        _script("local mine = holder == token", "local mine = false"),
    ),
    Mutant(
        "asked again, its lease is shorter",
        _IN_TIME,
        _script(
            "if redis.call('PTTL', lock) < tonumber(lease) then redis.call('PEXPIRE', lock, lease) end",
            "redis.call('PEXPIRE', lock, 500)",
        ),
    ),
    Mutant("N + 1 slots", _MOST, _script("free = taken() < slots", "free = taken() <= slots")),
    Mutant(
        "what is handed over is not counted",
        _MOST,
        _script(
            "return redis.call('ZCOUNT', lock, '-inf', LAST_TIME) - 1",
            "return redis.call('ZCOUNT', lock, FIRST_TIME, LAST_TIME)",
        ),
    ),
    Mutant(
        "one name for two",
        "each holder has a slot of its own",
        _script("repeat number = number + 1 until not has[number]", "number = 1"),
    ),
    Mutant(
        "a slot that is given back is not handed over",
        "a slot goes to who waits",
        _script(
            "redis.call('ZADD', lock, -(now + CLAIM_WITHIN_MS), HANDED_OVER .. ':' .. token)\n    lay_baton(baton)", ""
        ),
    ),
    Mutant(
        "a window that nothing leaves",
        "never more calls than a window has room for",
        _script("place = math.max(place, leaving + window[2])", "place = math.max(place, leaving)"),
    ),
    Mutant(
        "booked without caution",
        "who wakes up late makes nobody too early",
        _code((rate_limit.RateLimit, "_kept", lambda self: self.rate)),
    ),
    Mutant(
        "asked again, its place is over",
        "nobody comes later to his place than he wakes up late",
        _script("if last >= now then return", "if last > 0 then return"),
    ),
    Mutant(
        "fences by the clock alone",
        "fences grow, also when the clock is set back",
        _script("local fence = tonumber(redis.call('ZSCORE', index, '')) + 1", "local fence = now"),
    ),
)
