"""The management commands: what they print, what they refuse, and how they end."""

from __future__ import annotations

import json
import logging
import os
import platform
import pty
import pwd
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command, load_command_class
from django.core.management.base import CommandError
from django.test import override_settings

from django_locksmith import Holder, LockInfo, locksmith
from django_locksmith.formatting import ORDERS
from django_locksmith.management import common
from django_locksmith.tokens import HANDED_OVER
from tests.helpers import ROOT
from tests.helpers.callers import in_thread
from tests.helpers.servers import poll
from tests.helpers.warm import Warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django_locksmith import Lease
    from tests.helpers.deployments import Deployment

LIST, CLEAR, RUN = "locksmith_list", "locksmith_clear", "locksmith_run"
DOCS = ROOT / "docs" / "commands.md"
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
        assert row[4] in {30: ("30 s", "29 s"), 300: ("5 min 0 s", "4 min 59 s")}[lease.timeout]
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


def listed(*arguments: str) -> list[str]:
    return [lock["key"] for lock in json.loads(run(LIST, *arguments, "--json")[0])]


def test_list_of_an_owner(valkey: Deployment) -> None:
    """--owner narrows the list to a host, a process, a thread or a label, named in full or by a shell pattern."""
    hold("a", label="nightly import")
    hold("b", label="mailing")
    with valkey.server.client() as client:
        client.set("__locksmith:c", "theirs")
    host, process = platform.node(), f"{platform.node()}:{os.getpid()}"
    for owner, keys in {
        host: ["a", "b"],
        process: ["a", "b"],
        f"{process}:MainThread": ["a", "b"],
        f"{process}:*": ["a", "b"],
        "nightly import": ["a"],
        "*import*": ["a"],
        "nightly": [],
        host[:-1]: [],
        f"{host}:{os.getpid() + 1}": [],
    }.items():
        assert listed("--owner", owner) == keys, owner
    assert listed("b", "--owner", host) == ["b"]


def test_list_of_the_old(valkey: Deployment) -> None:
    """--older-than narrows the list to what has been held for so long, as the server's clock says."""
    old = hold("old", timeout=300)
    poll(lambda: (info := locksmith.info("old")) and info.held_for and info.held_for > 0.3)
    hold("young", timeout=300)
    with valkey.server.client() as client:
        client.set("__locksmith:theirs", "nobody knows since when")
    assert listed("--older-than", "0.3") == ["old"]
    assert listed("--older-than", "3600") == []
    assert listed("--older-than", "0") == ["old", "young"]
    said = "No lock is held whose key matches '*', by an owner that matches 'x', for 60 s or longer.\n"
    assert run(LIST, "--owner", "x", "--older-than", "60") == ("", said)
    old.release()


def test_list_count(valkey: Deployment) -> None:
    """--count prints how many there are, and nothing else."""
    hold("a")
    hold("b")
    assert run(LIST, "--count") == ("2\n", "")
    assert run(LIST, "b*", "--count") == ("1\n", "")
    assert run(LIST, "c", "--count") == ("0\n", "")


def test_list_for_probes(valkey: Deployment) -> None:
    """--fail-if-any ends with 1 when there are locks, after listing them, and says nothing when there are none."""
    assert run(LIST, "--fail-if-any") == ("", "")
    assert run(LIST, "--fail-if-any", "--count") == ("0\n", "")
    hold("a")
    said, out = ends(1, LIST, "--fail-if-any")
    assert said == "1 lock held."
    assert out.splitlines()[1].startswith("a  ")
    assert ends(1, LIST, "--fail-if-any", "--count")[1] == "1\n"
    assert run(LIST, "--fail-if-any", "--older-than", "60") == ("", "")


@pytest.mark.parametrize(
    "arguments",
    [
        [LIST, "--count", "--json"],
        [LIST, "--watch", "1", "--fail-if-any"],
        [LIST, "--watch", "-1"],
        [LIST, "--older-than", "nan"],
        [LIST, "--older-than", "long"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    """What makes no sense is refused with the option at fault."""
    with pytest.raises(CommandError, match=arguments[1]):
        call_command(*arguments)


@pytest.mark.parametrize("arguments", [[LIST, "--owner", ""], [CLEAR, "--owner", ""], [LIST, "--watch", "0"]])
def test_empty_values(valkey: Deployment, arguments: list[str]) -> None:
    """An owner, or a pause, that is nothing, is refused: exit code 2."""
    assert arguments[1] in ends(2, *arguments)[0]


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    """Where processes of the commands come from."""
    warm = Warm()
    yield warm
    warm.close()


def test_watch(own_server: Deployment, warm: Warm) -> None:
    """--watch lists again and again, also through an outage, until Ctrl-C ends it with 0; with --json a line each."""
    settings = {"DJANGO_SETTINGS_MODULE": "tests.helpers.run_settings", "REDIS_URL": own_server.server.url}
    with ExitStack() as stack:
        table, lists, counts = (
            warm.start(LIST, "a*", "--watch", "0.05", *how, **settings) for how in ([], ["--json"], ["--count"])
        )
        for each in (table, lists, counts):
            stack.callback(each.close)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n", table.line())
        assert table.line() == "No lock is held whose key matches 'a*'.\n"
        assert (json.loads(lists.line()), counts.line()) == ([], "0\n")
        held = hold("a", timeout=60)
        hold("b", timeout=60)
        poll(lambda: table.line().startswith("a  "))
        assert [lock["key"] for lock in poll(lambda: json.loads(lists.line()))] == ["a"]
        poll(lambda: counts.line() == "1\n")
        held.release()
        poll(lambda: counts.line() == "0\n")
        own_server.server.kill()
        for each in (table, lists, counts):
            assert "The locks cannot be listed, trying again: " in each.line("err")
        own_server.server.start()
        hold("again", timeout=60)
        poll(lambda: table.line().startswith("again  "))
        poll(lambda: json.loads(lists.line()))
        poll(lambda: counts.line() == "1\n")
        for each in (table, lists, counts):
            each.signal(signal.SIGINT)
            assert each.ends()[0] == 0


def test_watch_at_a_terminal(valkey: Deployment) -> None:
    """At a terminal, --watch shows what fits into it, and draws anew over what it showed before."""
    for number in range(10):
        hold(f"key:{number}", label="long " * 20)
    ours, theirs = pty.openpty()
    environment = {"DJANGO_SETTINGS_MODULE": "tests.helpers.run_settings", "REDIS_URL": valkey.server.url}
    process = subprocess.Popen(
        [sys.executable, "-m", "django", LIST, "--watch", "0.05"],
        env={**os.environ, **environment, "LINES": "6", "COLUMNS": "40"},
        cwd=DOCS.parent.parent,
        stdout=theirs,
    )
    seen = b""
    while seen.count(b"and 8 more") < 2:
        seen += os.read(ours, 10_000)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    os.close(ours)
    os.close(theirs)
    screen = seen.split(b"\x1b[H\x1b[J")[1].decode().split("\r\n")
    assert len(screen) == 6
    assert screen[1].startswith("(no room for ")
    assert screen[3].startswith("key:0  ")
    assert max(map(len, screen)) == 40


def at_a_terminal(url: str, *arguments: str, columns: int) -> list[str]:
    """What a terminal of this width shows of a command."""
    ours, theirs = pty.openpty()
    environment = {"DJANGO_SETTINGS_MODULE": "tests.helpers.run_settings", "REDIS_URL": url, "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "django", *arguments]
    process = subprocess.Popen(command, env={**os.environ, **environment}, cwd=DOCS.parent.parent, stdout=theirs)
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # so ends a terminal that nobody writes to any more
        while data := os.read(ours, 10_000):
            seen += data
    os.close(ours)
    assert process.wait(30) == 0
    return seen.decode().splitlines()


@pytest.mark.parametrize("columns", [30, 40, 60, 80, 100, 120, 160, 200])
def test_list_fits_the_terminal(valkey: Deployment, columns: int) -> None:
    """No line is longer than the terminal; keys, their ends and waiters are always there; what is missing is named."""
    hold("report:" + "x" * 60 + ":42", label="a long label of a nightly job " * 2)
    hold("東京" * 30)
    titles, *rows = at_a_terminal(valkey.server.url, LIST, columns=columns)
    for line in (titles, *rows):
        assert sum(2 if ord(letter) > 0x2000 else 1 for letter in line) <= columns, line
    wanted = ["KEY", "HOLDER", "LABEL", "HELD FOR", "TIME LEFT", "FENCE", "WAITERS"]
    missing = [title for title in wanted if title not in titles]
    assert titles.split()[0] == "KEY"
    assert titles.split()[-1] == "WAITERS"
    assert all(title in rows[-1] for title in missing) or columns < 60
    assert [row.split()[-1] for row in rows[:2]] == ["0", "0"]
    assert rows[0].startswith("report:")
    if columns > 30:
        assert ":42 " in rows[0].split("  ")[0] + " "
    assert bool(missing) == (columns < 110), (columns, titles)


def test_oldest_first() -> None:
    """By the instant of the grant: a lock that is looked at later looks older than it is beside the others."""
    older, younger = (LockInfo(key, None, held_for, 9, fence, 0) for key, held_for, fence in [("b", 2, 1), ("a", 3, 2)])
    assert sorted([younger, older], key=ORDERS["held"]) == [older, younger]


@pytest.mark.parametrize(("order", "keys"), [("key", "abc"), ("held", "cab"), ("left", "bca")])
def test_list_sorted(valkey: Deployment, order: str, keys: str) -> None:
    """--sort brings to the top what is oldest, or what ends first."""
    for key, timeout in {"c": 300, "a": 400, "b": 30}.items():
        hold(key, timeout=timeout)
    assert listed("--sort", order) == list(keys)


def test_list_sorted_by_waiters(valkey: Deployment) -> None:
    """--sort waiters brings to the top what most wait for."""
    a, b, c = (hold(key) for key in "abc")
    waiter = in_thread(locksmith("b", blocking_timeout=30).take)
    poll(lambda: (info := locksmith.info("b")) and info.waiters == 1)
    assert listed("--sort", "waiters") == ["b", "a", "c"]
    for lease in (a, b, c):
        lease.release()
    waiter.result(30).release()


def test_watch_into_a_pipe_that_closes(valkey: Deployment, warm: Warm) -> None:
    """When its reader (head, say) goes away, --watch ends, and does not complain."""
    settings = {"DJANGO_SETTINGS_MODULE": "tests.helpers.run_settings", "REDIS_URL": valkey.server.url}
    watching = warm.start(LIST, "--watch", "0.05", "--count", **settings)
    assert watching.line() == "0\n"
    watching.hang_up()
    assert watching.ends() == (0, "", "")


# ---- in general


@pytest.mark.parametrize("name", [LIST, CLEAR, RUN])
def test_exit_codes_are_told(name: str) -> None:
    """--help ends with the exit codes, and docs/commands.md has the same ones."""
    command = load_command_class("django_locksmith", name)
    assert isinstance(command, common.Command)
    told = command.create_parser("manage.py", name).format_help().partition("exit codes:\n")[2]
    assert dict(line.split(maxsplit=1) for line in told.splitlines()) == command.exit_codes
    section = DOCS.read_text().partition(f"## `{name}`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", section.partition("| exit code |")[2], re.MULTILINE)
    assert dict(rows) == command.exit_codes


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
    first, *_, last = run(CLEAR, "a", "--yes")[0].splitlines()
    assert (first, last) == ("a  held by (set by other software), never ends, 0 waiting", "1 lock cleared.")
    assert locksmith.info("a") is None


def test_lock_between_two_holders(valkey: Deployment) -> None:
    """A lock that is being handed over is shown as such, and cannot be taken from anybody: exit code 3."""
    with valkey.server.client() as client:
        client.set("__locksmith:a", HANDED_OVER, px=20_000)
    said, out = ends(3, CLEAR, "a", "--yes")
    assert said.endswith("in other hands meanwhile: a")
    first, *_, last = out.splitlines()
    assert re.fullmatch(r"a  held by \(being handed over\), (20|19) s left, 0 waiting", first)
    assert last == "0 locks cleared."


# ---- clear


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["a:1"], ["a:2", "b"]),
        (["a:1", "b", "not held", "b"], ["a:2"]),
        (["--pattern", "a:*"], ["b"]),
        (["--all"], []),
        (["--owner", "label of a:*"], ["b"]),
        (["--owner", platform.node()], []),
        (["a:1", "b", "--owner", "label of a:*"], ["a:2", "b"]),
        (["--pattern", "a:*", "--owner", "label of a:2"], ["a:1", "b"]),
        (["--all", "--owner", "label of b"], ["a:1", "a:2"]),
    ],
)
def test_clear(valkey: Deployment, arguments: list[str], left: list[str]) -> None:
    """Locks are cleared by key, by pattern, by owner, or all of them; the others are left alone."""
    leases = [hold(key, label=f"label of {key}") for key in ("a:1", "a:2", "b")]
    out, _ = run(CLEAR, *arguments, "--yes")
    cleared = [lease.key for lease in leases if lease.key not in left]
    assert held_now() == left
    *lines, warning, last = out.splitlines()
    assert [line.split("  ")[0] for line in lines] == cleared
    for line, key in zip(lines, cleared, strict=True):
        assert re.search(rf":MainThread \(label of {key}\) for 0\.\d s, (2 min 0 s|1 min 59 s) left, 0 waiting$", line)
    assert "is not stopped" in warning
    assert last == ("1 lock cleared." if len(cleared) == 1 else f"{len(cleared)} locks cleared.")


def test_clear_by_token(valkey: Deployment) -> None:
    """--token takes a lock only from the holder who has it by this token, given in full or up to its first |."""
    first, second = hold("a"), hold("b")
    token, short = first.token, second.token.partition("|")[0]
    assert ends(1, CLEAR, "b", "--token", token, "--yes")[0] == "None of these locks is held."
    ends(1, CLEAR, "--token", token[:-1], "--yes")
    ends(1, CLEAR, "--token", short[:-1], "--yes")
    assert held_now() == ["a", "b"]
    assert run(CLEAR, "a", "--token", token, "--yes")[0].endswith("\n1 lock cleared.\n")
    assert run(CLEAR, "--token", short, "--yes")[0].startswith("b  held by ")
    assert held_now() == []
    later = hold("a")
    ends(1, CLEAR, "a", "--token", token, "--yes")
    assert later.release()
    assert "--token must not be empty" in ends(2, CLEAR, "a", "--token", "", "--yes")[0]


def test_clear_is_logged(valkey: Deployment, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lock cleared is a warning of its own: by whom, as the system knows them; which; and from whom."""
    monkeypatch.setenv("USER", "somebody else")
    monkeypatch.setenv("LOGNAME", "somebody else")
    leases = [hold("a", label="x"), hold(NASTY, label=NASTY), hold("c")]
    with caplog.at_level(logging.INFO, "django_locksmith.clear"):
        run(CLEAR, "--all", "--dry-run")
        ends(1, CLEAR, "none", "--yes")
        assert not [each for each in caplog.records if each.name == "django_locksmith.clear"]
        run(CLEAR, "a", NASTY, "--yes")
    records = [each for each in caplog.records if each.name == "django_locksmith.clear"]
    user = f"{pwd.getpwuid(os.getuid()).pw_name}@{platform.node()}"
    assert [record.levelname for record in records] == ["WARNING", "WARNING"]
    for record, lease in zip(records, leases, strict=False):
        text = record.getMessage()
        assert text.startswith(f"{user} cleared the lock {lease.key!r}, held by ")
        assert lease.token.partition("|")[0] in text
        assert text.isprintable()
    assert f":{os.getpid()}:MainThread (x) with" in records[0].getMessage()


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


# ---- terminals and settings as they are


@pytest.mark.parametrize("arguments", [[LIST], [LIST, "--fail-if-any"], [CLEAR, "a"], [RUN, "a", "--", "true"]])
@pytest.mark.parametrize("settings", [{"TIMEOUT": 0}, {"REDIS": "nobody"}, {"NO_SUCH": 1}])
def test_settings_at_fault(arguments: list[str], settings: dict[str, Any]) -> None:
    """Settings that are at fault are one line and exit code 78, and not one that means something else."""
    with override_settings(LOCKSMITH=settings):
        said, out = ends(78, *arguments)
    assert "LOCKSMITH" in said
    assert not out


def test_ctrl_c_at_the_question(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C instead of an answer clears nothing, and is no traceback."""

    def interrupt(question: str) -> str:
        raise KeyboardInterrupt

    hold("a")
    monkeypatch.setattr("builtins.input", interrupt)
    assert ends(130, CLEAR, "a")[0] == "Nothing was cleared."
    assert held_now() == ["a"]


def as_program(valkey: Deployment, *arguments: str, shell: str = "", **environment: str) -> tuple[int, str]:
    """Its exit code, and what it wrote, as a program of its own; `shell`: what the shell does with its streams."""
    command = f'exec "{sys.executable}" -m django {" ".join(arguments)} {shell}'
    ours = {"DJANGO_SETTINGS_MODULE": "tests.helpers.run_settings", "REDIS_URL": valkey.server.url}
    ended = subprocess.run(
        ["/bin/sh", "-c", command],
        env={**os.environ, **ours, **environment},
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, (ended.stdout + ended.stderr).decode("latin-1")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_that_cannot_show_it(valkey: Deployment, encoding: str) -> None:
    """What a terminal has no letters for is written in others, as \\u4e2d."""
    hold("key-\u4e2d-\u00e9", label="\u4e2d")
    code, said = as_program(valkey, LIST, PYTHONIOENCODING=encoding)
    assert code == 0, said
    assert "key-\\u4e2d" in said
    assert as_program(valkey, CLEAR, "--all", "--yes", PYTHONIOENCODING=encoding)[0] == 0


@pytest.mark.parametrize("shell", ["2>&-", ">&- 2>&-"])
def test_closed_streams(valkey: Deployment, shell: str) -> None:
    """A stream that is closed from the beginning changes no exit code."""
    assert as_program(valkey, LIST, shell=shell)[0] == 0
    assert as_program(valkey, CLEAR, "a", shell=shell)[0] == 1
    hold("a")
    assert as_program(valkey, LIST, "--fail-if-any", shell=shell)[0] == 1


def test_empty_command(valkey: Deployment) -> None:
    """An empty word is no command."""
    assert "Say which command to run" in ends(2, RUN, "a", "--", "")[0]
