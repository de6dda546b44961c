"""locksmith_run: real processes under a real lock, ended in every way a process can end."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from django_locksmith import locksmith
from django_locksmith.management import supervisor
from tests.helpers import ROOT
from tests.helpers.callers import in_thread
from tests.helpers.proxy import proxy_to
from tests.helpers.servers import free_port, poll, watching_the_machine
from tests.helpers.warm import Running, Warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.helpers.deployments import Deployment


Start: TypeAlias = "Callable[..., Running]"

CHILD = ROOT / "tests" / "helpers" / "run_child.py"
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
LEASE = 3.0


class Book:
    """What tests/helpers/run_child.py has written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[list[str]]:
        text = self.path.read_text() if self.path.exists() else ""
        return [line.split() for line in text.splitlines() if line.count(" ") == 3]

    def begun(self, what: str = "begun") -> list[str]:
        """Its line that says so, waited for."""
        line: list[str] = poll(lambda: next((line for line in self.lines() if line[3] == what), None), within=30)
        return line

    def pids(self) -> set[int]:
        return {int(line[0]) for line in self.lines()}

    def last_sign_of_life(self) -> float:
        """Unix time of the last line of a command that has ended, which is waited for."""
        poll(lambda: not any(map(lives, self.pids())))
        return max(float(line[2]) for line in self.lines())


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    book = Book(tmp_path / "book")
    yield book
    for pid in book.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    """Where processes of the command come from."""
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture
def start(warm: Warm) -> Iterator[Start]:
    """Starts `locksmith_run ARGUMENTS` on the Redis of this URL; what a test left is killed."""
    with ExitStack() as stack:

        def start(url: str, *arguments: str, **how: Any) -> Running:
            settings = {"DJANGO_SETTINGS_MODULE": "tests.helpers.run_settings", "REDIS_URL": url}
            run = warm.start("locksmith_run", *arguments, **settings, **how)
            stack.callback(run.close)
            return run

        yield start


@contextmanager
def cold(url: str, *arguments: str, before: tuple[str, ...], **how: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of the command that `before` starts."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.helpers.run_settings", "REDIS_URL": url}
    command = [*before, sys.executable, "-m", "django", "locksmith_run", *arguments]
    with subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **how) as process:
        try:
            yield process
        finally:
            process.kill()


def child(book: Book, *words: str) -> list[str]:
    return ["--", sys.executable, "-I", "-S", str(CHILD), str(book.path), *words]


def lease_of(key: str, **options: Any) -> Any:
    lease = locksmith(key, **options).acquire(blocking_timeout=30)
    assert lease is not None
    return lease


# ---- how it ends


def test_exit_codes(valkey: Deployment, start: Start) -> None:
    """Each way to end has its exit code, and one line on stderr if it is not the command's; nothing stays in Redis."""
    url, nowhere = valkey.server.url, f"redis://127.0.0.1:{free_port()}/0"
    busy = lease_of("busy", timeout=60, label="nightly\x1b import")
    cases = [
        (0, "", [url, "a", "--", "true"]),
        (3, "", [url, "b", "--", "sh", "-c", "exit 3"]),
        (137, "", [url, "c", "--", "sh", "-c", "kill -9 $$"]),
        (127, "nothing-like-it was not started: No such file", [url, "d", "--", "nothing-like-it"]),
        (126, "was not started: Permission denied", [url, "e", "--", str(CHILD)]),
        (2, "required: COMMAND", [url, "f"]),
        (2, "COMMAND", [url, "f", "--"]),
        (2, "'soon' is not a number of seconds", [url, "f", "--wait", "soon", "--", "true"]),
        (2, "'256' is not an exit code", [url, "f", "--busy-exit-code", "256", "--", "true"]),
        (2, "timeout must be from 0.001 s", [url, "f", "--timeout", "0", "--", "true"]),
        (2, "max_hold (1 s) is shorter than timeout", [url, "f", "--max-hold", "1", "--timeout", "2", "--", "true"]),
        (0, "say --timeout, a shorter one still", [url, "f", "--max-hold", "1", "--", "true"]),
        (69, "Redis gave no answer", [nowhere, "g", "--", "true"]),
        (75, "The lock busy is held by ", [url, "busy", "--", "true"]),
        (9, "The lock busy is held by ", [url, "busy", "--busy-exit-code", "9", "--", "true"]),
        (0, "", [url, "busy", "--busy-exit-code", "0", "--", "false"]),
    ]
    runs = [start(*arguments) for _, _, arguments in cases]
    for (code, text, arguments), run in zip(cases, runs, strict=True):
        got, out, err = run.ends()
        assert got == code, (arguments, err)
        assert text in err
        if code != 2:
            assert (err.count("\n"), out) == (bool(text), "")
        if text.endswith("held by "):
            assert err.isprintable() or err.rstrip("\n").isprintable()
            assert "nightly" in err
            assert "its lease ends in " in err
    busy.release()
    assert not valkey.left_behind()


def test_what_the_command_gets(valkey: Deployment, start: Start, tmp_path: Path) -> None:
    """The command gets our stdin, stdout, stderr, folder and arguments as they are, and the lock's key and fence."""
    script = 'cat; pwd; echo "$LOCKSMITH_KEY" "$LOCKSMITH_FENCE"; for each; do echo "<$each>"; done; echo oops >&2'
    words = ["--wait", "x y", "--", "", "-h", "--settings=none", "*", "\udcff"]
    before = int(time.time() * 1e6)
    run = start(valkey.server.url, "k ä", "--", "sh", "-c", script, "sh", *words, stdin=subprocess.PIPE)
    code, out, err = run.ends("hello\n")
    assert code == 0
    first, folder, whose, *rest = out.splitlines()
    assert (first, folder, err) == ("hello", str(ROOT), "oops\n")
    key, _, fence = whose.rpartition(" ")
    assert key == "k ä"
    assert before < int(fence) < time.time() * 1e6
    assert rest == [f"<{word}>" for word in words]


def test_call_command(valkey: Deployment, tmp_path: Path) -> None:
    """Called from code, it takes what it takes on the command line; a code that is not 0 is an exception."""
    file = str(tmp_path / "file")
    call_command("locksmith_run", "a", "--", "sh", "-c", 'echo "$@" > "$0"', file, "-x", "--", "--wait")
    assert Path(file).read_text() == "-x -- --wait\n"
    call_command("locksmith_run", "a", "sh", "-c", "exit 0", wait=1, timeout=5)
    with pytest.raises(SystemExit) as exited:
        call_command("locksmith_run", "a", "--", "sh", "-c", "exit 4")
    assert exited.value.code == 4
    in_thread(lambda: call_command("locksmith_run", "a", "--", "true")).result(30)
    busy = lease_of("a")
    with pytest.raises(CommandError) as refused:
        in_thread(lambda: call_command("locksmith_run", "a", "--", "true")).result(30)
    assert refused.value.returncode == 75
    busy.release()
    for nothing in ([], ["--"]):
        with pytest.raises(CommandError):
            call_command("locksmith_run", "a", *nothing)
    assert not valkey.left_behind()


@pytest.mark.parametrize(
    ("command", "label"),
    [
        ("/usr/bin/python manage.py import --all", "python manage.py import"),
        ("curl -u me:secret url", "curl"),
        ("pg_dump postgres://me:secret@host/db", "pg_dump"),
        ("sync photos now please", "sync photos now"),
    ],
)
def test_label(command: str, label: str) -> None:
    """In the list, a run is called by its first words, without what may be a secret."""
    from django_locksmith.management.commands.locksmith_run import _label

    assert _label(command.split()) == label


# ---- waiting


@pytest.mark.parametrize("wait", ["30", "forever"])
def test_wait(valkey: Deployment, start: Start, wait: str) -> None:
    """With --wait it waits for its turn."""
    held = lease_of("a")
    run = start(valkey.server.url, "a", "--wait", wait, "--", "echo", "done")
    poll(lambda: (info := locksmith.info("a")) and info.waiters == 1, within=30)
    held.release()
    assert run.ends() == (0, "done\n", "")
    assert not valkey.left_behind()


def test_wait_ends(valkey: Deployment, start: Start) -> None:
    """When the wait is over without the lock, it is busy: exit code 75."""
    held = lease_of("a")
    code, out, err = start(valkey.server.url, "a", "--wait", "0.2", "--", "echo", "done").ends()
    assert (code, out) == (75, "")
    assert "is held by" in err
    held.release()
    assert not valkey.left_behind()


def test_signals_end_the_wait(valkey: Deployment, start: Start) -> None:
    """A signal ends the wait with 128 + its number and leaves nothing behind; those for the command are ignored."""
    held = lease_of("a")
    runs = {number: start(valkey.server.url, "a", "--wait", "60", "--", "echo", "done") for number in SIGNALS}
    poll(lambda: (info := locksmith.info("a")) and info.waiters == len(runs), within=30)
    for number, run in runs.items():
        run.signal(signal.SIGUSR1)
        run.signal(signal.SIGUSR2)
        run.signal(number)
        assert run.ends() == (128 + number, "", "")
    info = locksmith.info("a")
    assert info is not None
    assert info.waiters == 0
    held.release()
    assert not valkey.left_behind()


# ---- while it runs


def test_signals_are_passed_on(valkey: Deployment, start: Start, book: Book) -> None:
    """Each signal reaches the command, and whoever is in its group, once; its exit code is the command's."""
    run = start(valkey.server.url, "a", *child(book, "signals"))
    book.begun()
    for number in (*SIGNALS, signal.SIGUSR1, signal.SIGUSR2):
        run.signal(number)
        book.begun(number.name)
    assert run.ends() == (3, "", "")
    names = [line[3] for line in book.lines() if line[3].startswith("SIG")]
    assert names == [number.name for number in (*SIGNALS, signal.SIGUSR1, signal.SIGUSR2)]
    assert not valkey.left_behind()


def test_command_ended_by_a_signal(valkey: Deployment, start: Start, book: Book) -> None:
    """A command that a signal ends makes the exit code 128 + its number."""
    run = start(valkey.server.url, "a", *child(book))
    book.begun()
    run.signal(signal.SIGTERM)
    assert run.ends() == (143, "", "")


def test_nohup(valkey: Deployment, start: Start) -> None:
    """A signal that was ignored when it was started is ignored by it and by the command."""
    script = "kill -HUP $$ $PPID; echo here; read line"
    nohup = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    command = ["a", "--", "sh", "-c", script]
    with cold(valkey.server.url, *command, before=nohup, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGHUP)
        process.communicate("end\n", timeout=30)
        assert process.returncode == 0


def test_renewal(valkey: Deployment, start: Start) -> None:
    """A short lease is kept for as long as the command runs."""
    command = ["--timeout", "5", "--", "sh", "-c", "echo in; read line; echo out"]
    run = start(valkey.server.url, "a", *command, stdin=subprocess.PIPE)
    assert run.line() == "in\n"
    waiter = in_thread(lambda: lease_of("a"))
    poll(lambda: locksmith.info("a").held_for > 6, within=30)
    assert run.ends("end\n") == (0, "out\n", "")
    waiter.result(10).release()


def test_background_processes_hold_the_lock(valkey: Deployment, start: Start, tmp_path: Path) -> None:
    """What the command leaves in the background holds the lock, and gets signals, until it ends, and it is said why."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    run = start(valkey.server.url, "a", "--timeout", "3", "--", "sh", "-c", f"(read line < {gate}) & exit 5")
    assert "left processes in the background" in run.line("err")
    assert locksmith.info("a") is not None
    gate.write_text("end\n")
    assert run.ends() == (5, "", "")
    assert not valkey.left_behind()


def test_daemons_do_not_hold_the_lock(valkey: Deployment, start: Start, book: Book) -> None:
    """What has left the command's process group, as daemons do, is not part of it."""
    assert start(valkey.server.url, "a", *child(book, "daemon")).ends() == (6, "", "")
    assert not valkey.left_behind()
    book.begun()


def read_until(terminal: int, words: bytes) -> None:
    """Read from a terminal until these words come; half a minute at most."""
    seen, until = b"", time.monotonic() + 30
    while words not in seen:
        readable, _, _ = select.select([terminal], [], [], max(0.0, until - time.monotonic()))
        assert readable, f"{words!r} did not come, only {seen!r}"
        seen += os.read(terminal, 1000)


def test_terminal(valkey: Deployment, start: Start) -> None:
    """At a terminal, a command that reads from it does not hang, and Ctrl-C reaches it."""
    ours, theirs = pty.openpty()
    # The leader of a new session gets the terminal that it opens first.
    at_it = ("sh", "-c", f'exec "$@" <{os.ttyname(theirs)} >{os.ttyname(theirs)} 2>&1', "sh")
    script = 'trap "echo stopped; exit 7" INT; read line; echo got $line; while :; do sleep 0.05; done'
    with cold(valkey.server.url, "a", "--", "sh", "-c", script, before=at_it, start_new_session=True) as process:
        os.write(ours, b"hello\n")
        read_until(ours, b"got hello")
        os.write(ours, b"\x03")
        read_until(ours, b"stopped")
        assert process.wait(30) == 7
    os.close(ours)
    os.close(theirs)


def test_terminal_that_is_closed(valkey: Deployment) -> None:
    """With its terminal ends a command that takes the signal of that for something else, as servers do."""
    ours, theirs = pty.openpty()
    at_it = ("sh", "-c", f'exec "$@" <{os.ttyname(theirs)} >{os.ttyname(theirs)} 2>&1', "sh")
    script = 'trap "true" HUP; echo here; while :; do sleep 0.05; done'
    with cold(valkey.server.url, "a", "--", "sh", "-c", script, before=at_it, start_new_session=True) as process:
        read_until(ours, b"here")
        os.close(theirs)
        os.close(ours)
        assert process.wait(30) == 143
    assert not valkey.left_behind()


# ---- the end of the lease


@contextmanager
def killed(run: Running, book: Book, *, cut_off: Callable[[], None]) -> Iterator[None]:
    run.signal(signal.SIGKILL)
    yield


@contextmanager
def stopped(run: Running, book: Book, *, cut_off: Callable[[], None]) -> Iterator[None]:
    run.signal(signal.SIGSTOP)
    yield
    run.signal(signal.SIGCONT)
    assert run.ends()[0] == 76


@contextmanager
def partitioned(run: Running, book: Book, *, cut_off: Callable[[], None]) -> Iterator[None]:
    cut_off()
    yield
    code, _, err = run.ends()
    assert code == 76
    assert "the command was stopped" in err


@contextmanager
def partitioned_with_a_stopped_supervisor(run: Running, book: Book, *, cut_off: Callable[[], None]) -> Iterator[None]:
    os.kill(int(book.begun()[1]), signal.SIGSTOP)
    cut_off()
    yield
    assert run.ends()[0] == 76


@contextmanager
def with_a_killed_supervisor(run: Running, book: Book, *, cut_off: Callable[[], None]) -> Iterator[None]:
    os.kill(int(book.begun()[1]), signal.SIGKILL)
    yield
    code, _, err = run.ends()
    assert code == 71
    assert "supervisor of the command was killed" in err


OBEDIENT, STUBBORN = (), ("stubborn", "family")


@pytest.mark.parametrize("words", [pytest.param(OBEDIENT, id="obedient"), pytest.param(STUBBORN, id="stubborn family")])
@pytest.mark.parametrize("end", [killed, stopped, partitioned])
def test_dead_before_the_next(valkey: Deployment, start: Start, book: Book, end: Any, words: tuple[str, ...]) -> None:
    """Whoever dies, hangs or is cut off, the command and its family are dead before Redis lets another one in."""
    _dead_before_the_next(valkey, start, book, end, words)


@pytest.mark.parametrize("end", [partitioned_with_a_stopped_supervisor, with_a_killed_supervisor])
def test_dead_before_the_next_without_a_supervisor(valkey: Deployment, start: Start, book: Book, end: Any) -> None:
    """That is so, too, when it is the supervisor that is killed, or hangs when it is needed."""
    _dead_before_the_next(valkey, start, book, end, STUBBORN)


def _dead_before_the_next(valkey: Deployment, start: Start, book: Book, end: Any, words: tuple[str, ...]) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(proxy_to(valkey.server.port))
        stack.callback(proxy.flowing.set)
        run = start(proxy.url, "a", "--timeout", str(LEASE), *child(book, *words))
        book.begun("child" if words else "alive")
        waiter = in_thread(lambda: lease_of("a"))
        poll(lambda: (info := locksmith.info("a")) and info.waiters == 1)
        with watching_the_machine() as stalled, end(run, book, cut_off=proxy.flowing.clear):
            lease = waiter.result(30)
            granted = lease.fence / 1e6  # the server's clock, which is ours
            last = book.last_sign_of_life()
        # Where the machine stood still when the lease ended, all are woken at once; and a supervisor that was kept from
        # running says so.
        kept = re.search(r"kept its supervisor waiting for ([\d.]+) s", run.errors())
        assert last < granted + stalled() + (float(kept[1]) if kept else 0)
        lease.release()
    assert len(book.pids()) == (2 if words else 1)
    poll(lambda: not valkey.left_behind())


def test_redis_dies(own_server: Deployment, start: Start, book: Book) -> None:
    """When Redis dies and stays dead, the command is stopped near the end of its lease, not before: exit code 76."""
    run = start(own_server.server.url, "a", "--timeout", "8", "--grace", "4", *child(book, "signals"))
    book.begun()
    info = locksmith.info("a")
    assert info is not None
    dead = time.time()
    own_server.server.kill()
    with watching_the_machine() as stalled:
        code, out, err = run.ends()
        assert (code, out) == (76, "")
        # How long ago is said where a busy machine came late to tell it.
        lost = r"The lock a was lost \(its lease of 8 s ran out( [\d.]+ s ago)?\); the command was stopped\."
        assert re.search(lost, err)
        asked = float(book.begun("SIGTERM")[2])
        assert asked > dead + info.remaining - 1 - 4
        assert book.last_sign_of_life() < dead + 8 + stalled()


def test_redis_comes_back(own_server: Deployment, start: Start) -> None:
    """An outage that is shorter than the lease does not disturb the command."""
    run = start(
        own_server.server.url, "a", "--timeout", "6", "--", "sh", "-c", "echo in; read line", stdin=subprocess.PIPE
    )
    assert run.line() == "in\n"
    first = locksmith.info("a")
    assert first is not None
    own_server.server.pause()
    assert "no answer to the renewal" in run.line("err")
    own_server.server.resume()
    assert first.holder is not None
    poll(lambda: (info := locksmith.info("a")) and info.remaining and info.remaining > 4.5)
    assert run.ends("end\n")[0] == 0
    assert not own_server.left_behind()


def test_cleared(valkey: Deployment, start: Start, book: Book) -> None:
    """When the lock is taken from it, the command is stopped at the next renewal: SIGTERM, SIGKILL after the grace."""
    run = start(valkey.server.url, "a", "--timeout", "3", "--grace", "0.3", *child(book, "stubborn"))
    book.begun()
    with watching_the_machine() as stalled:
        locksmith.clear("a")
        cleared = time.time()
        code, _, err = run.ends()
        assert code == 76
        assert "The lock a was lost (Redis did not have it any more" in err
        assert book.last_sign_of_life() - cleared < 1 + 0.3 + 0.5 + stalled()
    assert not valkey.left_behind()


@pytest.mark.parametrize(("code", "ends_with"), [(0, 76), (5, 5)])
def test_lost_unnoticed(valkey: Deployment, start: Start, code: int, ends_with: int) -> None:
    """A command that ended with 0, its lock lost unnoticed, has not done well: 76. A failure stays what it is."""
    script = f"echo in; read line; exit {code}"
    run = start(valkey.server.url, "a", "--timeout", "60", "--", "sh", "-c", script, stdin=subprocess.PIPE)
    assert run.line() == "in\n"
    locksmith.clear("a")
    got, _, err = run.ends("end\n")
    assert got == ends_with
    assert "others may have run at the same time" in err


def test_not_released(own_server: Deployment, start: Start) -> None:
    """If the lock cannot be released, that is said, and the exit code is the command's."""
    run = start(own_server.server.url, "a", "--", "sh", "-c", "echo in; read line; exit 4", stdin=subprocess.PIPE)
    assert run.line() == "in\n"
    own_server.server.kill()
    code, _, err = run.ends("end\n")
    assert code == 4
    assert "could not be released, and ends with its lease of 120 s" in err


def test_max_hold(valkey: Deployment, start: Start, book: Book) -> None:
    """--max-hold ends the command, however stubborn, within so many seconds: exit code 76; the next gets the lock."""
    run = start(valkey.server.url, "a", "--timeout", "2", "--max-hold", "3", *child(book, "stubborn"))
    book.begun()
    info = locksmith.info("a")
    assert info is not None
    with watching_the_machine() as stalled:
        code, _, err = run.ends()
        ended = time.time()
        assert code == 76
        assert "--max-hold" in err
        granted = info.fence / 1e6  # the server's clock, which is ours
        assert book.last_sign_of_life() < granted + 3 + stalled()
        assert granted + 2.5 < ended  # and not too early
    lease_of("a").release()


def test_nothing_is_left_running(valkey: Deployment, start: Start, book: Book) -> None:
    """When it is killed, the supervisor ends, too, as soon as the command has ended, and says what it did."""
    run = start(valkey.server.url, "a", *child(book))
    supervisor_pid = int(book.begun()[1])
    run.signal(signal.SIGKILL)
    assert "locksmith_run: killed" in run.ends()[2]
    poll(lambda: not lives(supervisor_pid))


def test_two_servers(valkey: Deployment, tmp_path: Path) -> None:
    """Two servers that run the same command 50 times never run it at the same time."""
    script = (
        "import sys, django; django.setup(); from django.core.management import call_command\n"
        "for _ in range(25): call_command('locksmith_run', 'a', '--wait', '60', '--timeout', '10', '--', *sys.argv[1:])"
    )
    # With -C, the shell creates a file only if it is not there yet.
    critical = ["sh", "-c", 'set -C; : > "$0" || exit 9; rm "$0"; echo', str(tmp_path / "in the critical section")]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.helpers.run_settings", "REDIS_URL": valkey.server.url}
    both = [
        subprocess.Popen([sys.executable, "-c", script, *critical], env=environment, cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    outcomes = [(each.communicate(timeout=60)[0].count(b"\n"), each.returncode) for each in both]
    assert outcomes == [(25, 0), (25, 0)]
    assert not valkey.left_behind()


# ---- the supervisor, by itself


def supervisor_says(deadline: float, *command: str, tell: bytes | None = None) -> str:
    """What a supervisor says, started with this deadline; with nothing to `tell`, its socket is closed at once."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(10)
        arguments = [str(theirs.fileno()), repr(deadline), "1.0", "0.1", *command]
        if tell is None:
            ours.shutdown(socket.SHUT_WR)
        else:
            ours.sendall(tell)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, *arguments], pass_fds=[theirs.fileno()]
            )
        said = b""
        while data := ours.recv(1000):
            said += data
        assert process.wait(10) == 0
    return said.decode()


def test_nobody_is_there_any_more(tmp_path: Path) -> None:
    """A command is not begun when the holder of the lock has died meanwhile, or has lost it, or has no time left."""
    touch, soon = ["touch", str(tmp_path / "file")], time.monotonic() + 60
    assert supervisor_says(soon, *touch) == "over orphaned\n"
    assert supervisor_says(soon, *touch, tell=b"lost\n") == "over lost\n"
    assert supervisor_says(time.monotonic() + 0.5, *touch, tell=b"") == "over deadline\n"
    assert not (tmp_path / "file").exists()
    said = supervisor_says(time.monotonic() + 0.5, *touch, tell=f"until {soon!r}\n".encode())
    assert said.partition("\n")[2] == "ended 0\nover -\n"
    assert (tmp_path / "file").exists()


def test_early_signals(tmp_path: Path) -> None:
    """A signal that comes before the command has begun reaches it all the same."""
    said = supervisor_says(time.monotonic() + 60, "sleep", "60", tell=b"signal 2\n")
    assert said.partition("\n")[2] == "ended 130\nover -\n"


# ---- a rate limit


def test_rate(valkey: Deployment, start: Start) -> None:
    """With --rate a command is started when its place has come, if that is no further away than --wait."""
    url = valkey.server.url
    assert start(url, "import", "--rate", "1/60s", "--", "true").ends()[0] == 0
    code, _, err = start(url, "import", "--rate", "1/60s", "--wait", "3", "--", "true").ends()
    assert code == 75
    assert re.search(r"The next place in the rate limit import is \d\d\.\d s away\.", err)
    assert locksmith.info("import") is None
    assert [limit.name for limit in locksmith.rate_limits()] == ["import"]


def test_rate_that_is_none(valkey: Deployment, start: Start) -> None:
    """A rate that cannot be read is wrong usage, and nothing is run."""
    code, _, err = start(valkey.server.url, "import", "--rate", "often", "--", "true").ends()
    assert code == 2
    assert "rate is written as calls per time" in err


def test_signal_while_it_waits_for_its_place(valkey: Deployment, start: Start) -> None:
    """A signal ends that wait as it does the one for the lock: place and lock are given back."""
    locksmith.rate_limit("import", "1/60s").take()
    run = start(valkey.server.url, "import", "--rate", "1/60s", "--wait", "forever", "--", "true")
    poll(lambda: [each for each in locksmith.rate_limits() if each.waiting], within=30)
    os.kill(run.pid, signal.SIGTERM)
    assert run.ends()[0] == 128 + signal.SIGTERM
    assert locksmith.info("import") is None
    assert not [each for each in locksmith.rate_limits() if each.waiting]
