"""Whatever stands in Redis under the names of a flight, callers get the value, or an error of ours, and do not spin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from django_locksmith import LockBusy, Locksmith, LockUnavailable
from tests.helpers.origins import Origin
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment

LEADER = f"{'0' * 24}-1|host|1|thread|1|label"


def names(service: Locksmith) -> Any:
    return service.runtime().threads().flights.names("default::1:v")


@pytest.mark.parametrize(
    "pause",
    [
        "garbage",
        "5",
        '["failed"]',
        '["failed",1,2,3,4]',
        '["failed",{},[]]',
        '["xx","",""]',
        '["landed","",""]',
        '["failed","a\\u001b[31m b",""]',
        "[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_pause_that_is_none(
    valkey: Deployment, caller: Caller, service: Locksmith, pause: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A pause that nobody of us can have made keeps nobody from computing, and the log names its key."""
    with valkey.server.client() as client:
        client.set(names(service).pause, pause, px=60_000)
    valkey.forget_commands()
    assert caller.get(service, "v", caller.populate(lambda: 7), 60) == 7
    assert sum(valkey.commands().values()) < 30
    assert "is no pause of a flight" in caplog.text


@pytest.mark.parametrize("pause", ['["failed","builtins.X",""]', '["later","","5"]', "garbage"])
def test_pause_that_does_not_end(valkey: Deployment, caller: Caller, service: Locksmith, pause: str) -> None:
    """All of our pauses end: one that does not is removed."""
    with valkey.server.client() as client:
        client.set(names(service).pause, pause)
        assert caller.get(service, "v", caller.populate(lambda: 7), 60) == 7
        assert not client.exists(names(service).pause)


@pytest.mark.parametrize("leader", [LEADER, f"landing:{LEADER}", "garbage", b"\xff\xff"])
def test_leader_that_does_not_end(valkey: Deployment, caller: Caller, service: Locksmith, leader: Any) -> None:
    """A flight that never ends is given an end: callers wait no longer than for a leader that died."""
    with valkey.server.client() as client:
        client.set(names(service).lock, leader)
    how = {"lease": 0.5, "blocking_timeout": 20}
    assert caller.get(service, "v", caller.populate(lambda: 7), 60, **how) == 7


@pytest.mark.parametrize(
    "news",
    [
        {"a": "1"},
        {"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"},
        {"what": "hello", "kind": "", "message": ""},
        {"what": "failed", "kind": "\x1b[31mX\n", "message": ""},
        *({"what": "later", "kind": "", "message": when} for when in ("soon", "nan", "inf", "1e12", "-5", "9" * 400)),
    ],
)
def test_news_that_are_none(valkey: Deployment, caller: Caller, service: Locksmith, news: dict[str, str]) -> None:
    """News that nobody of us can have told end no wait: whoever waits looks again, and goes on waiting."""
    with valkey.server.client() as client:
        client.set(names(service).lock, LEADER, px=60_000)
        origin = Origin(7)
        answer = caller.start_get(service, "v", caller.populate(origin), 60, blocking_timeout=20)
        poll(lambda: client.info("clients")["blocked_clients"] == 1)
        valkey.forget_commands()
        client.xadd(names(service).news, news)
        poll(lambda: valkey.commands().get("xread", 0) >= 1)
        poll(lambda: client.info("clients")["blocked_clients"] == 1)
        assert sum(valkey.commands().values()) < 100
        assert not answer.done()
        client.delete(names(service).lock)
        client.xadd(names(service).news, {"what": "void", "kind": "", "message": ""})
        assert answer.result(20) == 7
        assert origin.calls == 1


@pytest.mark.parametrize("which", ["lock", "news", "pause"])
def test_other_types(valkey: Deployment, caller: Caller, service: Locksmith, which: str) -> None:
    """Where a key of a flight is of another type, its callers compute for themselves; invalidate says what is wrong."""
    with valkey.server.client() as client:
        client.set(names(service).lock, LEADER, px=60_000)
        client.delete(getattr(names(service), which))
        client.zadd(getattr(names(service), which), {"x": 1})
    assert caller.get(service, "v", caller.populate(lambda: 7), 60) == 7
    with pytest.raises(LockUnavailable, match="holds something that is no lock"):
        caller.invalidate(service, "v")
    valkey.flush()


def test_token_that_is_none(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """The error at the end of a wait quotes no leader that cannot be one."""
    with valkey.server.client() as client:
        client.set(names(service).lock, '{"secret": 1}', px=60_000)
    with pytest.raises(LockBusy) as caught:
        caller.get(service, "v", caller.populate(lambda: 7), 60, blocking_timeout=0.1)
    assert "secret" not in str(caught.value)
    valkey.flush()
