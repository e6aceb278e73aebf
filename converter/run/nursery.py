"""Where workers come from: one process imports JAX once, and every worker is a fork of it.

Importing JAX and this package costs nearly a second, more than most tasks take for a small model. The nursery
computes nothing and starts no threads of its own, so forking it is safe. It ends when its parent does, however
that ends.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import IO, NoReturn

from ...exporters.base import exporters
from ...model.family import families

PRELOADED = ("jax", "jax.numpy", "jax.export", "flax.nnx", f"{__package__}.worker")
MESSAGE = 1 << 20
PATIENCE = 10
"""Seconds that the nursery has to end when it is left."""

FORKS = sys.platform != "darwin"
"""Apple's frameworks do not survive a fork: there a worker is a fresh interpreter."""


class Nursery:
    """The parent's end. Use as a context manager; on leaving, the nursery is gone, workers are the caller's to stop.

    Args:
        environment: of the nursery and of every worker.
    """

    def __init__(self, environment: Mapping[str, str]):
        self._socket, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed on leaving
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=theirs.fileno(),
                stdout=self._log,
                stderr=self._log,
                env=environment,
            )

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()  # which it takes as the end, after its last worker's
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def start(self, arguments: list[str], log: IO[bytes]) -> tuple[IO[bytes], IO[bytes]]:
        """Start a worker; give the pipe of what it says, and the pipe that it listens to.

        The last line that it says is `{"exit": code}`, from the nursery. The worker ends when the pipe that
        it listens to is closed.
        """
        (heard, tell), (listen, said) = os.pipe(), os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps(arguments).encode()], [heard, said, log.fileno()])
        except BrokenPipeError:
            pass  # the nursery is gone: the worker never says a word, and `last_words` tells why
        finally:
            os.close(heard)
            os.close(said)
        return os.fdopen(listen, "rb", buffering=0), os.fdopen(tell, "wb", buffering=0)

    def last_words(self) -> str:
        """Give what the nursery itself printed, which says something only if it could not start."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


def main() -> None:
    """Fork a worker for every message on the socket that is standard input, and say how each ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    gc.disable()  # workers live for seconds: looking for garbage took a quarter of tracing's time, and found little
    if FORKS:
        for module in PRELOADED:
            importlib.import_module(module)
        exporters()
        families()
    orders = socket.socket(fileno=os.dup(0))
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    workers: dict[int, int] = {}  # process -> the pipe that it speaks into
    with selectors.DefaultSelector() as selector:
        selector.register(orders, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if woken in ready:
                woken.recv(MESSAGE)
                while workers and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    _bury(workers, ended)
            if orders in ready:
                message, descriptors, _, _ = socket.recv_fds(orders, MESSAGE, 3)
                if not message:
                    break
                worker = os.fork()
                if not worker:
                    selector.close()
                    for left in (orders, woken, wake):
                        left.close()
                    for pipe in workers.values():
                        os.close(pipe)
                    _become_worker(json.loads(message), descriptors)
                heard, said, log = descriptors
                os.close(heard)
                os.close(log)
                workers[worker] = said
    while workers:  # they were told to end; whoever leaves before them leaves their remains to the system
        _bury(workers, os.waitpid(-1, 0))
    os._exit(0)  # as its workers do, without the farewells of the frameworks


def _bury(workers: dict[int, int], ended: tuple[int, int]) -> None:
    """Say of a worker that has ended how it ended."""
    worker, status = ended
    pipe = workers.pop(worker)
    try:
        os.write(pipe, json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
    except BrokenPipeError:
        pass  # nobody listens any more
    finally:
        os.close(pipe)


def _become_worker(arguments: list[str], descriptors: list[int]) -> NoReturn:
    """Take over the pipes as standard streams and do the task, in the child of a fork."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    code = 70
    try:
        from . import worker

        if not FORKS:
            os.execv(sys.executable, [sys.executable, "-m", worker.__name__, *arguments])
        code = worker.main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)  # without the farewells of the frameworks: everything is written and synced


if __name__ == "__main__":
    main()
