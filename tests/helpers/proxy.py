"""A TCP proxy between a client and Redis that loses, delays and cuts what it is told to."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Proxy:
    """Forwards to `port`. Each rule is asked for each piece of data that passes."""

    def __init__(self, port: int, at: int = 0) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", at))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._cut: Callable[[bytes], bool] | None = None
        self._due_to_cut: set[socket.socket] = set()
        self.flowing = threading.Event()  # cleared: what arrives is taken, and kept
        self.flowing.set()
        self.replies = threading.Event()  # as `flowing`, for replies alone
        self.replies.set()
        self.answering = True  # False: requests pass, replies are dropped
        self.delay = 0.0  # seconds that each reply is kept back
        self.cuts = 0
        self._rewritten: tuple[bytes, bytes] | None = None
        self._late_request: Callable[[bytes], bool] | None = None
        self._late_reply: Callable[[bytes], bool] | None = None
        self._slow: set[socket.socket] = set()
        self.kept_back: list[threading.Event] = []  # set: deliver it
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut_reply_to(self, request: Callable[[bytes], bool]) -> None:
        """Let the next such request pass, and close its connection instead of forwarding the reply. Once."""
        self._cut = request

    def lead_to(self, port: int) -> None:
        """New connections go to another server, as a name that has been given to it does; the old ones stay."""
        self._target = port

    def keep_back(self, request: Callable[[bytes], bool]) -> None:
        """Keep the next such request, and what follows it on its connection, until `deliver`. Once.

        As a lost packet, which TCP sends again: it arrives also when the client has closed meanwhile.
        """
        self._late_request = request

    def keep_back_reply_to(self, request: Callable[[bytes], bool]) -> None:
        """Let the next such request pass, and keep its reply until `deliver`. Once."""
        self._late_reply = request

    def deliver(self) -> None:
        """What was kept back arrives."""
        for each in self.kept_back:
            each.set()

    def _keep_back(self) -> None:
        self.kept_back.append(threading.Event())
        self.kept_back[-1].wait(60)

    def rewrite(self, said: bytes, instead: bytes) -> None:
        """In replies from now on, say something else of the same length."""
        assert len(said) == len(instead)
        self._rewritten = said, instead

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self._replies, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                if self._cut is not None and self._cut(data):
                    self._cut = None
                    self._due_to_cut.add(client)
                if self._late_reply is not None and self._late_reply(data):
                    self._late_reply = None
                    self._slow.add(client)
                if self._late_request is not None and self._late_request(data):
                    self._late_request = None
                    self._keep_back()
                self.flowing.wait()
                server.sendall(data)
            # What was sent last arrives before the end.
            server.shutdown(socket.SHUT_WR)
        except OSError:
            _close(server)

    def _replies(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                if client in self._due_to_cut:
                    self.cuts += 1
                    break
                if self.delay:
                    threading.Event().wait(self.delay)
                if client in self._slow:
                    self._slow.discard(client)
                    self._keep_back()
                self.flowing.wait()
                self.replies.wait()
                if self._rewritten:
                    data = data.replace(*self._rewritten)
                if self.answering:
                    client.sendall(data)
        except OSError:
            pass
        _close(client)

    def close(self) -> None:
        self.flowing.set()
        self.replies.set()
        self.deliver()
        for each in (self._listener, *self._sockets):
            _close(each)


def _close(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()


@contextmanager
def proxy_to(port: int, at: int = 0) -> Iterator[Proxy]:
    proxy = Proxy(port, at)
    try:
        yield proxy
    finally:
        proxy.close()
