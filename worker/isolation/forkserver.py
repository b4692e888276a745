"""The process that is forked for each isolated agent run: everything imported, no thread, no connection, no plugin.

A worker cannot be forked itself: its threads hold locks that nobody would release in the child. So this is started fresh,
imports what every agent needs, and forks whenever the worker asks: a child is there within milliseconds. It reaps its
children and tells how they ended; it lives as long as the worker holds the other end of its socket, and its children do.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

#: How often it looks whether its worker is still its parent: another process may hold the end of the socket open.
_LOOK_SECONDS = 5.0
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MESSAGE_BYTES = 4096


def main(handle: int) -> None:
    """Serve the worker at the other end of a socket until it is gone."""
    for number in _IGNORED:  # who stops the worker closes the socket
        signal.signal(number, signal.SIG_IGN)
    from orchestrator.failpoints import trace_if_asked
    from worker.isolation.child import child_main

    trace_if_asked(os.environ)
    gc.collect()
    gc.freeze()  # a collection would write to every page that the children share
    _Server(socket.socket(fileno=handle), child_main).run()


class _Server:
    """One thread, one loop: messages of the worker, and ends of children."""

    def __init__(self, control: socket.socket, child: Callable[[socket.socket], None]) -> None:
        self._control = control
        self._child = child
        self._children: dict[int, int] = {}
        self._worker = os.getppid()
        self._ended, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._ended, False)
        signal.signal(signal.SIGCHLD, _woken)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._wake = wake

    def run(self) -> None:
        while os.getppid() == self._worker:
            ready, _, _ = select.select([self._control, self._ended], [], [], _LOOK_SECONDS)
            if self._ended in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._ended, _MESSAGE_BYTES)
                self._reap()
            if self._control in ready and not self._serve():
                break
        for number in list(self._children):
            self._kill(number)

    def _serve(self) -> bool:
        """Do what one message says, and say so: the worker sends the next one after that. False when it is gone."""
        try:
            data, handles, *_ = socket.recv_fds(self._control, _MESSAGE_BYTES, 1)
        except ConnectionError:  # it was killed while it was about to be told something
            return False
        if not data:
            return False
        for handle in handles:
            os.set_inheritable(handle, False)  # noqa: FBT003 - the standard library's signature
        message = json.loads(data)
        number = message["number"]
        if message["do"] == "kill":
            self._kill(number)
            self._tell(answer=number)
            return True
        try:
            self._children[number] = self._fork(handles[0])
            self._tell(answer=number)
        except OSError as error:
            self._tell(answer=number, refused=str(error))
        finally:
            os.close(handles[0])
        return True

    def _fork(self, handle: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            self._become_child()
            self._child(socket.socket(fileno=handle))
            status = 0
        finally:
            # Nothing of this process's own may be done twice: no exit handlers, no buffers of files.
            os._exit(status)

    def _become_child(self) -> None:
        os.setsid()  # a group of its own, which is killed with all that it starts
        signal.set_wakeup_fd(-1)
        for number in (*_IGNORED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._control.close()
        os.close(self._ended)
        os.close(self._wake)
        end_with_parent(os.getppid())
        be_first_out_of_memory()

    def _kill(self, number: int) -> None:
        # Its id is not given to another process before it is reaped, which nobody but this thread does.
        if (pid := self._children.get(number)) is not None:
            _kill_all_of(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # it may not have come to a group of its own yet

    def _reap(self) -> None:
        for number, pid in list(self._children.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _kill_all_of(pid)  # what it has started and left behind
            _, status = os.waitpid(pid, 0)
            del self._children[number]
            self._tell(ended=number, status=os.waitstatus_to_exitcode(status))

    def _tell(self, **message: object) -> None:
        with contextlib.suppress(OSError):
            self._control.sendall(json.dumps(message).encode() + b"\n")


def _woken(_number: int, _frame: object) -> None:
    """Have the end of a child written to the pipe that wakes the loop."""


def _kill_all_of(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, where it can (Linux); the pipe tells of it otherwise."""
    if sys.platform != "linux":
        return
    import ctypes

    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def be_first_out_of_memory() -> None:
    """Have the kernel choose this process, and not the worker with all its other agents, when memory is out."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - no such file elsewhere
        file.write("1000")
