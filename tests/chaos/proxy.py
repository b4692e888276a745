"""A way to a server that can be shut, cut and silenced, without touching the server."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit


class Proxy:
    """A TCP proxy on a port of its own: `shut` refuses everybody, `cut` breaks what is open, `silence` is a black hole."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._port = 0
        self._shut = threading.Event()
        self._flows = threading.Event()
        self._flows.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        #: How many connections were refused.
        self.refused = 0

    @property
    def url(self) -> str:
        """The address of the server as seen through this proxy."""
        place = self._target.netloc.rpartition("@")
        return self._target._replace(netloc=f"{place[0]}{place[1]}127.0.0.1:{self._port}").geturl()

    def __enter__(self) -> Proxy:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that waits in `accept` is not woken by a close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flows.set()
        self.cut()

    def shut(self) -> None:
        """Break what is open, and refuse what is new."""
        self._shut.set()
        self.cut()

    def open(self) -> None:
        """Let everybody in again."""
        self._shut.clear()

    def silence(self) -> None:
        """Accept everything and pass nothing on: nobody is told that anything is wrong."""
        self._flows.clear()

    def speak(self) -> None:
        """Pass on what was held back, and all that follows."""
        self._flows.set()

    def cut(self) -> None:
        """Break every open connection, in both directions."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for each in pair:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                if self._shut.is_set():
                    self.refused += 1
                    inner.close()
                    continue
                try:
                    outer = socket.create_connection((self._target.hostname or "localhost", self._target.port or 0))
                except OSError:
                    inner.close()
                    continue
                self._pairs.append((inner, outer))
                for one, other in ((inner, outer), (outer, inner)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                self._flows.wait()
                other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
