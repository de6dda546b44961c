"""A Redis of a few hundred lines: the commands that ours use, the very Lua, blocked clients in order, a clock to set.

It is held to a real server by `test_engine.py`. What it does not know it refuses by name.
"""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING, Any

import lupa.lua51 as lupa

from .commands import COMMANDS
from .values import WRONG_KIND, Refusal, Reply, Status, score_text

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCH_US = 1_750_000_000_000_000


class Engine:
    """`clock`: seconds that pass; what the server takes for the time is that and `set_forward`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.set_forward = 0.0
        self.data: dict[bytes, Any] = {}
        self.expires: dict[bytes, int] = {}
        self.scripts: dict[bytes, Any] = {}
        self.touched: set[bytes] = set()
        """Keys that may serve clients who are blocked."""
        self.calls = 0
        self._script_time: int | None = None
        self._lua = _lua()
        words = {b"call": self._call_from_lua, b"pcall": self._pcall_from_lua}
        words |= {b"error_reply": self._error_reply, b"status_reply": self._status_reply}
        self._lua.globals().redis = self._lua.table_from(words)

    def now_us(self) -> int:
        """What TIME says."""
        if self._script_time is not None:
            return self._script_time
        return EPOCH_US + int((self._clock() + self.set_forward) * 1e6)

    def now_ms(self) -> int:
        return self.now_us() // 1000

    def forget(self) -> None:
        """It has restarted, and lost all it had."""
        self.data.clear()
        self.expires.clear()
        self.scripts.clear()

    def known(self) -> list[bytes]:
        """What is there now."""
        return sorted(key for key in list(self.data) if self.has(key))

    # ---- values

    def has(self, key: bytes) -> bool:
        """Is there something now?"""
        until = self.expires.get(key)
        if until is not None and self.now_ms() > until:
            self._delete(key)
        return key in self.data

    def _delete(self, key: bytes) -> bool:
        self.expires.pop(key, None)
        return self.data.pop(key, None) is not None

    def get(self, key: bytes, kind: type[Any]) -> Any:
        """The value, `None` if there is none. Raises where it is another kind."""
        value = self.data[key] if self.has(key) else None
        if value is not None and type(value) is not kind:
            raise WRONG_KIND
        return value

    def _make(self, key: bytes, kind: type[Any]) -> Any:
        value = self.get(key, kind)
        if value is None:
            value = self.data[key] = kind()
        return value

    def _tidy(self, key: bytes) -> None:
        if not self.data.get(key, True):
            self._delete(key)

    # ---- commands and scripts

    def execute(self, command: list[bytes]) -> Reply:
        """Raises `Refusal`."""
        name = command[0].upper()
        self.calls += 1
        if name in (b"EVAL", b"EVALSHA"):
            return self._script(name, command)
        run = COMMANDS.get(name)
        if run is None:
            raise Refusal(f"ERR unknown command '{name.decode()}'")
        try:
            return run(self, *command[1:])
        except TypeError as error:
            raise Refusal(f"ERR wrong arguments for '{name.decode()}': {error}") from error

    def _script(self, name: bytes, command: list[bytes]) -> Reply:
        digest = command[1] if name == b"EVALSHA" else self.load(command[1])
        function = self.scripts.get(digest)
        if function is None:
            raise Refusal("NOSCRIPT No matching script. Please use EVAL.")
        number = int(command[2])
        keys, arguments = command[3 : 3 + number], command[3 + number :]
        self._script_time = self.now_us()
        try:
            return _from_lua(function(self._lua.table_from(keys), self._lua.table_from(arguments)))
        except lupa.LuaError as error:
            raise Refusal(f"ERR script: {error}") from error
        finally:
            self._script_time = None

    def load(self, text: bytes) -> bytes:
        """Its digest."""
        digest = sha1(text, usedforsecurity=False).hexdigest().encode()
        if digest not in self.scripts:
            self.scripts[digest] = self._lua.execute(b"return function(KEYS, ARGV)\n" + text + b"\nend")
        return digest

    def _call_from_lua(self, *command: Any) -> Any:
        return self._to_lua(self.execute([_argument(part) for part in command]))

    def _pcall_from_lua(self, *command: Any) -> Any:
        try:
            return self._call_from_lua(*command)
        except Refusal as refusal:
            return self._lua.table_from({b"err": str(refusal).encode()})

    def _error_reply(self, text: bytes) -> Any:
        return self._lua.table_from({b"err": text})

    def _status_reply(self, text: bytes) -> Any:
        return self._lua.table_from({b"ok": text})

    def _to_lua(self, reply: Reply) -> Any:
        if reply is None:
            return False
        if isinstance(reply, Status):
            return self._lua.table_from({b"ok": bytes(reply)})
        if isinstance(reply, list):
            return self._lua.table_from([self._to_lua(each) for each in reply])
        if isinstance(reply, float):
            return score_text(reply)
        return reply


def _lua() -> Any:
    return lupa.LuaRuntime(encoding=None, unpack_returned_tuples=False)


def _argument(part: Any) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, bool) or part is None:
        raise Refusal("ERR Lua redis() command arguments must be strings or integers")
    return b"%.17g" % part


def _from_lua(value: Any) -> Reply:
    if value is None or value is False:
        return None
    if value is True:
        return 1
    if isinstance(value, (int, float)):
        return int(value)
    if isinstance(value, bytes):
        return value
    error = value[b"err"]
    if error is not None:
        raise Refusal(error.decode())
    if value[b"ok"] is not None:
        return Status(value[b"ok"])
    found: list[Reply] = []
    while (each := value[len(found) + 1]) is not None:
        found.append(_from_lua(each))
    return found
