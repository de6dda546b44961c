"""The engine of the simulation answers as a real server does, command by command and script by script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import exceptions as redis_errors

from django_locksmith.redis.lua import ACQUIRE_SLOT
from tests.sim.commands import COMMANDS
from tests.sim.engine import EPOCH_US, Engine
from tests.sim.values import Refusal

if TYPE_CHECKING:
    from tests.helpers.deployments import Deployment

KEYS = st.sampled_from(["a", "b"])
MEMBERS = st.sampled_from(["", "x", "y", "@x", "[1]"])
SCORES = st.one_of(st.integers(-5, 5), st.sampled_from([1750001028253893, 1e14, 0.5, 3.0009765625, -1750001028253]))
BOUNDS = st.one_of(SCORES, st.sampled_from(["-inf", "+inf", "(1", "(0.5", 10**9, 10**14]))
PLACES = st.integers(-4, 4)
TEXTS = st.sampled_from(["1", "", "token", "9" * 17])

CALLS = st.one_of(
    st.tuples(st.just("GET"), KEYS),
    st.tuples(st.just("SET"), KEYS, TEXTS),
    st.tuples(st.just("SET"), KEYS, TEXTS, st.just("NX"), st.just("PX"), st.just(60_000)),
    st.tuples(st.just("DEL"), KEYS),
    st.tuples(st.just("DEL"), KEYS, KEYS),
    st.tuples(st.just("EXISTS"), KEYS),
    st.tuples(st.just("PEXPIRE"), KEYS, st.sampled_from([60_000, 0, -1])),
    st.tuples(st.just("TYPE"), KEYS),
    st.tuples(st.just("KEYS"), st.just("*")),
    st.tuples(st.just("ZADD"), KEYS, SCORES, MEMBERS),
    st.tuples(st.just("ZADD"), KEYS, SCORES, MEMBERS, SCORES, MEMBERS),
    st.tuples(st.just("ZADD"), KEYS, st.just("GT"), st.just("CH"), SCORES, MEMBERS, SCORES, MEMBERS),
    st.tuples(st.just("ZADD"), KEYS, st.sampled_from(["NX", "XX"]), SCORES, MEMBERS),
    st.tuples(st.just("ZREM"), KEYS, MEMBERS, MEMBERS),
    st.tuples(st.just("ZSCORE"), KEYS, MEMBERS),
    st.tuples(st.just("ZCARD"), KEYS),
    st.tuples(st.just("ZCOUNT"), KEYS, BOUNDS, BOUNDS),
    st.tuples(st.just("ZREMRANGEBYSCORE"), KEYS, BOUNDS, BOUNDS),
    st.tuples(st.just("ZPOPMIN"), KEYS),
    st.tuples(st.just("ZRANGE"), KEYS, PLACES, PLACES, st.just("WITHSCORES")),
    st.tuples(st.just("ZRANGE"), KEYS, PLACES, PLACES, st.just("REV")),
    st.tuples(st.just("ZRANGE"), KEYS, BOUNDS, BOUNDS, st.just("BYSCORE"), st.just("WITHSCORES")),
    st.tuples(st.just("ZRANGE"), KEYS, BOUNDS, BOUNDS, st.just("BYSCORE"), st.just("LIMIT"), st.just(0), st.just(1)),
    st.tuples(st.just("ZRANGE"), KEYS, BOUNDS, BOUNDS, st.just("BYSCORE"), st.just("REV")),
    st.tuples(st.just("RPUSH"), KEYS, TEXTS, TEXTS),
    st.tuples(st.just("LPOP"), KEYS),
    st.tuples(st.just("RPOP"), KEYS),
    st.tuples(st.just("LLEN"), KEYS),
    st.tuples(st.just("LINDEX"), KEYS, PLACES),
    st.tuples(st.just("LRANGE"), KEYS, PLACES, PLACES),
    st.tuples(st.just("LTRIM"), KEYS, PLACES, PLACES),
    st.tuples(st.just("HSET"), KEYS, MEMBERS, TEXTS, MEMBERS, TEXTS),
    st.tuples(st.just("HGET"), KEYS, MEMBERS),
    st.tuples(st.just("XADD"), KEYS, st.sampled_from(["1-0", "2-0", "3-1", "1750001028253893-0"]), TEXTS, TEXTS),
    st.tuples(st.just("XADD"), KEYS, st.just("MAXLEN"), st.just(2), st.just("9-0"), TEXTS, TEXTS),
    st.tuples(st.just("XREVRANGE"), KEYS, st.just("+"), st.just("-"), st.just("COUNT"), st.just(1)),
    st.tuples(st.just("EVAL"), st.sampled_from(["pcall", "call", "numbers", "nested"]), KEYS, SCORES),
)
SCRIPTS = {
    "pcall": "local v = redis.pcall('GET', KEYS[1]) return type(v) == 'table' and 'error' or v",
    "call": "return redis.call('ZADD', KEYS[1], ARGV[1], 'm', tonumber(ARGV[1]) / 3, 'third')",
    "numbers": "return {tonumber(ARGV[1]), ARGV[1] + 1, 2^53, string.format('%.0f', ARGV[1]), true, 'x', false, 'y'}",
    "nested": "return {redis.call('EXISTS', KEYS[1]), {redis.call('TYPE', KEYS[1]), {}}, redis.status_reply('FINE')}",
}


def answer_of_engine(engine: Engine, command: list[bytes]) -> Any:
    try:
        return engine.execute(command)
    except Refusal as refusal:
        return str(refusal).split(" ")[0]


def answer_of_server(client: Any, command: list[bytes]) -> Any:
    try:
        return client.execute_command(*command)
    except redis_errors.ResponseError as error:
        return "WRONGTYPE" if "wrong kind" in str(error) else "ERR"


def as_bytes(parts: tuple[Any, ...]) -> list[bytes]:
    """As a client sends it."""
    if parts[0] == "EVAL":
        parts = ("EVAL", SCRIPTS[parts[1]], 1, *parts[2:])
    return [part.encode() if isinstance(part, str) else repr(part).encode() for part in parts]


def test_answers_as_a_server_does(valkey: Deployment) -> None:
    """Whatever is asked in whatever order, both answer the same."""
    with redis.Redis(port=valkey.server.port, protocol=2) as client:
        client.response_callbacks.clear()

        @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(st.lists(CALLS, min_size=1, max_size=25))
        def hold(calls: list[tuple[Any, ...]]) -> None:
            client.execute_command("FLUSHALL")
            engine = Engine(lambda: 0.0)
            for parts in calls:
                command = as_bytes(parts)
                told, real = answer_of_engine(engine, command), answer_of_server(client, command)
                if parts[0] == "KEYS":
                    told, real = sorted(told), sorted(real)
                assert told == real, command

        hold()


def test_time_of_a_key() -> None:
    """A key is there until its time is over, and not for one ms more."""
    now = 0.0
    engine = Engine(lambda: now)
    engine.execute([b"SET", b"a", b"1", b"PX", b"500"])
    now = 0.5
    assert engine.execute([b"PTTL", b"a"]) == 0
    now = 0.501
    assert engine.execute([b"PTTL", b"a"]) == -2
    assert engine.execute([b"GET", b"a"]) is None


def test_a_script_has_one_time() -> None:
    """However often a script asks for it; and it is the server's clock, which may be set."""
    engine = Engine(lambda: 1.0)
    engine.set_forward = 30
    text = b"return {redis.call('TIME')[2], redis.call('TIME')[1]}"
    assert engine.execute([b"EVAL", text, b"0"]) == [b"0", b"%d" % (EPOCH_US // 1_000_000 + 31)]


def test_what_it_does_not_know() -> None:
    """A command that nobody has written is refused by its name."""
    with pytest.raises(Refusal, match="SUBSCRIBE"):
        Engine(lambda: 0.0).execute([b"SUBSCRIBE", b"a"])
    assert b"GET" in COMMANDS


@pytest.mark.parametrize("after_us", [0, 1, 500, 999])
def test_the_lease_of_a_slot_is_whole(after_us: int) -> None:
    """Wherever in a millisecond it is granted, nobody else gets the slot before all of its lease is over."""
    now = after_us / 1e6
    engine = Engine(lambda: now)
    keys = [b"4", b"lock", b"queue", b"baton", b"index"]

    def ask(token: bytes) -> Any:
        valid = b"%d" % (engine.now_us() + 1000)
        arguments = [token, b"3", valid, b"0", b"try", b"1", b""]
        return engine.execute([b"EVAL", ACQUIRE_SLOT.text, *keys, *arguments])[0]

    assert ask(b"first") == 1
    began = engine.now_us()
    now += 0.0029999
    assert ask(b"second") == 0, "its lease is of 3 ms"
    now += 0.0011
    assert engine.now_us() - began >= 3000
    assert ask(b"second") == 1
