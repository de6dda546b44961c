"""A command for locksmith_run: says in a file, line by line, that it lives, until it is ended.

    python -I -S run_child.py FILE [stubborn] [family] [signals] [daemon]

A line is `<pid> <parent's pid> <Unix time> <what>`; the first is `begun`. `stubborn`: it ignores SIGTERM. `family`: so
does a child of its own, which does the same. `signals`: it writes those it gets, and ends with 3 at a SIGUSR2.
`daemon`: it leaves the process group, and what had started it ends with 6.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def main(file: str, *words: str) -> None:
    book = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(what: str) -> None:
        os.write(book, f"{os.getpid()} {os.getppid()} {time.time():.6f} {what}\n".encode())

    def on_signal(number: int, frame: object) -> None:
        write(signal.Signals(number).name)
        if number == signal.SIGUSR2:
            os._exit(3)

    if "stubborn" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "signals" in words:
        for number in SIGNALS:
            signal.signal(number, on_signal)
    if "daemon" in words:
        done, doing = os.pipe()
        if os.fork():
            os.close(doing)
            os.read(done, 1)
            os._exit(6)
        os.setsid()
        for end in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), end)
        os.close(doing)
    write("begun")
    if "family" in words and os.fork() == 0:
        write("child")
    while True:
        select.select([], [], [], 0.002)
        write("alive")


main(*sys.argv[1:])
