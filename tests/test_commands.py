"""The management commands: what they print, what they refuse, and how they end."""

from __future__ import annotations

import json
import os
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from django_locksmith import Holder, LockInfo, locksmith
from django_locksmith.tokens import HANDED_OVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from django_locksmith import Lease
    from tests.conftest import Deployment

LIST, CLEAR = "locksmith_list", "locksmith_clear"
NASTY = "\x1b]0;title\x07\x1b[31mred\r\n\u202e"


def run(command: str, *arguments: str) -> tuple[str, str]:
    """What the command writes to stdout and to stderr."""
    out, err = StringIO(), StringIO()
    call_command(command, *arguments, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def ends(code: int, *arguments: str) -> tuple[str, str]:
    """How the command fails, which must be with this code, and what it wrote to stdout before."""
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(*arguments, stdout=out, no_color=True)
    assert caught.value.returncode == code
    return str(caught.value), out.getvalue()


def hold(key: str, **options: Any) -> Lease:
    lease = locksmith(key, **options).acquire(blocking=False)
    assert lease is not None
    return lease


def held_now() -> list[str]:
    return [info.key for info in locksmith.locks()]


def answers(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], str]) -> list[str]:
    """Somebody sits at the prompt; what they were asked."""
    asked: list[str] = []

    def reply(prompt: str) -> str:
        asked.append(prompt)
        return answer(prompt)

    monkeypatch.setattr("builtins.input", reply)
    return asked


# ---- list


def test_list(valkey: Deployment) -> None:
    """The list is an aligned table: holder, label, how long held, how long left, fence and waiters of each lock."""
    first, second = hold("b", label="nightly import", timeout=300), hold("a", label="x", timeout=30)
    out, err = run(LIST)
    titles, *rows = [line.split("  ") for line in out.splitlines()]
    titles, *rows = [[cell.strip() for cell in row if cell.strip()] for row in (titles, *rows)]
    assert titles == ["KEY", "HOLDER", "LABEL", "HELD FOR", "TIME LEFT", "FENCE", "WAITERS"]
    place = f":{os.getpid()}:MainThread"
    for row, lease, key, label in zip(rows, (second, first), "ab", ("x", "nightly import"), strict=True):
        assert (row[0], row[2], row[5], row[6]) == (key, label, str(lease.fence), "0")
        assert row[1].endswith(place)
        assert row[3].endswith(" s")
        assert lease.timeout - 10 < float(row[4].removesuffix(" s")) <= lease.timeout
    columns = {(line.index(place), line.rindex("  0")) for line in out.splitlines()[1:]}
    assert len(columns) == 1
    assert err == ""


def test_list_json(valkey: Deployment) -> None:
    """With --json the list is what `locks()` returns, for programs."""
    lease = hold("ä", label="me", timeout=30)
    (lock,) = json.loads(run(LIST, "--json")[0])
    assert lock["key"] == "ä"
    assert Holder(**lock["holder"]) == locksmith.locks()[0].holder
    assert (lock["fence"], lock["waiters"]) == (lease.fence, 0)
    assert 20 < lock["remaining"] <= 30
    assert 0 <= lock["held_for"] < 10


def test_list_pattern(valkey: Deployment) -> None:
    """A shell pattern narrows the list."""
    for key in ("a:1", "a:2", "b:1", "a*"):
        hold(key)
    for pattern, keys in {"a:*": ["a:1", "a:2"], "?:1": ["a:1", "b:1"], "a[*]": ["a*"], "*": held_now()}.items():
        assert [lock["key"] for lock in json.loads(run(LIST, pattern, "--json")[0])] == keys


def test_list_of_nothing(valkey: Deployment) -> None:
    """Where nothing is held, the table says so on stderr, and JSON is an empty list."""
    assert run(LIST, "a*") == ("", "No lock is held whose key matches 'a*'.\n")
    assert run(LIST, "--json") == ("[]\n", "")


@pytest.mark.parametrize(
    "arguments", [[LIST], [LIST, "--json"], [CLEAR, "--all", "--dry-run"], [CLEAR, "--all", "--yes"]]
)
def test_terminals_are_safe(valkey: Deployment, arguments: list[str]) -> None:
    """Whatever keys, labels and tokens contain, nothing but printable characters reaches the terminal."""
    hold(NASTY, label=NASTY)
    hold("\udcff")
    out, _ = run(*arguments)
    assert "red" in out
    assert all(line.isprintable() for line in out.split("\n"))


@pytest.mark.parametrize("key", ["", " a", "a\t"])
def test_blank_keys_can_be_seen(valkey: Deployment, key: str) -> None:
    """A key that one could not see, or not see whole, is quoted."""
    hold(key)
    assert run(LIST)[0].splitlines()[1].startswith(repr(key))


def test_lock_of_other_software(valkey: Deployment) -> None:
    """A lock that other software set is known by its key, shown as such, and can be cleared."""
    with valkey.server.client() as client:
        client.set("__locksmith:a", f"theirs{NASTY}", nx=True)
    info = LockInfo("a", Holder(f"theirs{NASTY}"), held_for=None, remaining=None, fence=None, waiters=0)
    assert locksmith.info("a") == info
    assert run(CLEAR, "a", "--yes")[0] == "a  held by (set by other software), 0 waiting\n1 lock cleared.\n"
    assert locksmith.info("a") is None


def test_lock_between_two_holders(valkey: Deployment) -> None:
    """A lock that is being handed over is shown as such, and cannot be taken from anybody: exit code 3."""
    with valkey.server.client() as client:
        client.set("__locksmith:a", HANDED_OVER, px=20_000)
    said, out = ends(3, CLEAR, "a", "--yes")
    assert said.endswith("in other hands meanwhile: a")
    assert out == "a  held by (being handed over), 0 waiting\n0 locks cleared.\n"


# ---- clear


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["a:1"], ["a:2", "b"]),
        (["a:1", "b", "not held", "b"], ["a:2"]),
        (["--pattern", "a:*"], ["b"]),
        (["--all"], []),
    ],
)
def test_clear(valkey: Deployment, arguments: list[str], left: list[str]) -> None:
    """Locks are cleared by key, by pattern, or all of them; the others are left alone."""
    leases = [hold(key) for key in ("a:1", "a:2", "b")]
    out, _ = run(CLEAR, *arguments, "--yes")
    cleared = [lease.key for lease in leases if lease.key not in left]
    assert held_now() == left
    assert [line.split("  ")[0] for line in out.splitlines()[:-1]] == cleared
    assert out.splitlines()[-1] == ("1 lock cleared." if len(cleared) == 1 else f"{len(cleared)} locks cleared.")


def test_clear_dry_run(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run names what would be cleared, asks nothing and clears nothing."""
    asked = answers(monkeypatch, lambda prompt: "y")
    lease = hold("a")
    out, _ = run(CLEAR, "a", "--dry-run")
    assert out.startswith("a  held by ")
    assert out.endswith("\n1 lock would be cleared.\n")
    assert asked == []
    assert lease.release()


@pytest.mark.parametrize("arguments", [[], ["a", "--all"], ["--pattern", "*", "--all"], ["a", "--pattern", "*"]])
def test_clear_wants_to_know_which(valkey: Deployment, arguments: list[str]) -> None:
    """Without, or with more than one way to say which locks are meant, nothing is cleared: exit code 2."""
    hold("a")
    said, _ = ends(2, CLEAR, *arguments, "--yes")
    assert said.startswith("Say which locks to clear")
    assert held_now() == ["a"]


def test_clear_reserved_key(valkey: Deployment) -> None:
    """A key that no lock can have is refused: exit code 2."""
    assert "reserved" in ends(2, CLEAR, "<index>", "--yes")[0]


@pytest.mark.parametrize("arguments", [["a"], ["--pattern", "a*"], ["--all"]])
def test_clear_nothing(valkey: Deployment, arguments: list[str]) -> None:
    """Where none of the locks is held, the command says so and fails: exit code 1."""
    assert ends(1, CLEAR, *arguments) == ("None of these locks is held.", "")


@pytest.mark.parametrize("answer", ["y", "YES", " yes "])
def test_clear_asks(valkey: Deployment, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Without --yes the command asks, and a yes clears."""
    asked = answers(monkeypatch, lambda prompt: answer)
    hold("a")
    hold("b")
    assert run(CLEAR, "--all")[0].endswith("2 locks cleared.\n")
    assert asked == ["Take 2 locks from the holders? [y/N] "]
    assert held_now() == []


@pytest.mark.parametrize("answer", ["", "n", "no", "yikes"])
def test_clear_takes_no_for_an_answer(valkey: Deployment, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Whatever is not a yes clears nothing: exit code 1."""
    answers(monkeypatch, lambda prompt: answer)
    hold("a")
    assert ends(1, CLEAR, "a")[0] == "Nothing was cleared."
    assert held_now() == ["a"]


def test_clear_where_nobody_answers(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can answer, nothing is cleared, and the error says how to do without: exit code 1."""
    monkeypatch.setattr("sys.stdin", StringIO())
    hold("a")
    assert "--yes" in ends(1, CLEAR, "a")[0]
    assert held_now() == ["a"]


def test_clear_leaves_new_holders_alone(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that changed hands, or was released, since it was shown is not cleared: exit code 3, and it is named."""
    hold("a")
    hold("b")
    released = hold("c\n")
    later: list[Lease] = []

    def meanwhile(prompt: str) -> str:
        locksmith.clear("b")
        later.append(hold("b"))
        released.release()
        return "y"

    answers(monkeypatch, meanwhile)
    said, out = ends(3, CLEAR, "--all")
    assert said == "Not cleared, because released or in other hands meanwhile: b, 'c\\n'"
    assert out.endswith("\n1 lock cleared.\n")
    assert held_now() == ["b"]
    assert later[0].release()


# ---- Redis is down


@pytest.mark.parametrize("arguments", [[LIST], [LIST, "--json"], [CLEAR, "a", "--yes"], [CLEAR, "--all", "--yes"]])
def test_redis_is_down(own_server: Deployment, arguments: list[str]) -> None:
    """Without Redis the commands say so and end with the exit code for an unavailable service, 69."""
    own_server.server.kill()
    said, out = ends(69, *arguments)
    assert "Redis gave no answer" in said
    assert out == ""


def test_redis_goes_down_at_the_prompt(own_server: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Redis goes down between the look and the clearing, the command ends with exit code 69, too."""
    hold("a")

    def meanwhile(prompt: str) -> str:
        own_server.server.kill()
        return "y"

    answers(monkeypatch, meanwhile)
    said, out = ends(69, CLEAR, "a")
    assert said.startswith("Nothing more can be cleared")
    assert "cleared." not in out
