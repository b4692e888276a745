"""The worker's side of the fork server: starts it when the first child is needed, and again should it die."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any

from orchestrator.errors import ServiceUnavailable
from orchestrator.observability.logging import get_logger
from worker.isolation.channel import Channel

log = get_logger("nightfleet.worker")

#: Finds its modules where this process finds them, whatever the folder it is started in holds.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from worker.isolation.forkserver import main; main(int(sys.argv[2]))"
)
#: For the first import of everything on a busy machine.
_ANSWER_SECONDS = 60.0
_END_SECONDS = 5.0


class ForkServerLost(ServiceUnavailable):
    """The process that forks the children is gone, and so are they: nobody knows which of them was to blame."""

    code = "fork_server_lost"


class Child:
    """One child process: a channel to it, and how it ended."""

    def __init__(self, server: ForkServer, number: int, end: socket.socket, ended: Future[int]) -> None:
        self._server = server
        self._number = number
        self._ended = ended
        self.channel = Channel(end)
        if sys.platform == "linux":  # elsewhere what has been sent would be lost too
            # Its end may be held open by a process that it has left behind.
            ended.add_done_callback(lambda _: self.channel.hang_up())

    def kill(self) -> None:
        """End it and everything that it has started, at once; harmless when it has ended."""
        with contextlib.suppress(ForkServerLost):
            self._server.kill(self._number)

    def wait(self, timeout_seconds: float) -> int | None:
        """Give its exit code, negative for a signal, None if it has not ended in time; raises `ForkServerLost`."""
        try:
            return self._ended.result(timeout_seconds)
        except NotInTime:
            return None

    def close(self) -> None:
        """Be done with it, whether it has ended or not."""
        self.kill()
        self.channel.close()


class ForkServer:
    """Forks children for one worker process; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._last = 0

    def fork(self) -> Child:
        """Give a new child; raises `ForkServerLost` when there is none to be had."""
        with self._lock:
            try:
                return self._fork()
            except OSError as error:  # no more processes, memory or files
                raise ForkServerLost(f"no process for an isolated agent: {error}") from None

    def _fork(self) -> Child:
        if self._connection is None or self._connection.lost:
            self._connection = _Connection()
        self._last += 1
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                ended = self._connection.fork(self._last, theirs)
            except BaseException:
                ours.close()
                raise
        return Child(self, self._last, ours, ended)

    def kill(self, number: int) -> None:
        """Kill a child of this number if there is one."""
        with self._lock:
            if self._connection is not None:
                self._connection.kill(number)

    def close(self) -> None:
        """End the fork server and its children."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Connection:
    """One fork server: its process, and a thread that reads what it tells. Requests go one after the other."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._answers: dict[int, Future[dict[str, Any]]] = {}
        self._ended: dict[int, Future[int]] = {}
        self._guard = threading.Lock()
        self.lost = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, json.dumps(list(map(str, sys.path))), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # A group of its own: Ctrl-C is for the worker, which lets its agents end.
                process_group=0,
            )
        self._listener = threading.Thread(target=self._listen, name="nightfleet-children", daemon=True)
        self._listener.start()

    def fork(self, number: int, end: socket.socket) -> Future[int]:
        """Give what will be the exit code of a child that has the other end of `end`'s pair."""
        ended: Future[int] = Future()
        with self._guard:
            self._ended[number] = ended
        self._ask({"do": "fork", "number": number}, [end.fileno()])
        return ended

    def kill(self, number: int) -> None:
        with self._guard:
            if self.lost or number not in self._ended:
                return
        self._ask({"do": "kill", "number": number}, [])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._listener.join()

    def _ask(self, request: dict[str, Any], handles: list[int]) -> None:
        number = request["number"]
        answer: Future[dict[str, Any]] = Future()
        with self._guard:
            if self.lost:
                raise ForkServerLost("the fork server has ended")
            self._answers[number] = answer
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], handles)
            told = answer.result(_ANSWER_SECONDS)
        except (OSError, NotInTime) as error:
            self._process.kill()
            raise ForkServerLost(f"the fork server does not answer: {error}") from None
        if "refused" in told:
            raise ForkServerLost(f"no process for an isolated agent: {told['refused']}")

    def _listen(self) -> None:
        with self._control.makefile("rb") as lines:
            try:
                for line in lines:
                    self._hear(json.loads(line))
            except (OSError, ValueError) as error:
                log.warning("the fork server cannot be understood", error=str(error))
        self._lose()

    def _hear(self, told: dict[str, Any]) -> None:
        with self._guard:
            if "ended" in told:
                self._ended.pop(told["ended"]).set_result(told["status"])
            else:
                self._answers.pop(told["answer"]).set_result(told)

    def _lose(self) -> None:
        """Tell everybody who waits that there is nothing to wait for."""
        with self._guard:
            self.lost = True
            waiting = [*self._answers.values(), *self._ended.values()]
            self._answers.clear()
            self._ended.clear()
        for future in waiting:
            future.set_exception(ForkServerLost("the fork server has ended, and its children with it"))
        self._control.close()
        try:
            self._process.wait(_END_SECONDS)  # it kills its children first
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
