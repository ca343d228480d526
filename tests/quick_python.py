"""`quick_python.py PROGRAM …`, or `-c CODE …`, is Python without the imports, which are most of a short run.

A server makes them once and forks for each program. The fork has the streams, folder, environment and signals
of the process that asked, which ends as it does. Without a server that process runs the program itself.
"""

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

ADDRESS = "QUICK_PYTHON"  # in the environment: where the server listens
PACKAGES = ("torch.distributed.run", "torchvision.models.segmentation", "albumentations.pytorch", "timm")
PACKAGES += ("matplotlib.figure", "rasterio", "scipy.special")  # each program imports the project's modules


def serve(server: socket.socket) -> list[str]:
    """Returns in each fork, with the program and its arguments; ends when stdin is closed."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import would ask the network for news
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork
    while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
        client = server.accept()[0]
        for name in PACKAGES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        if os.fork() == 0:
            server.close()
            return take_over(client)
        client.close()
    sys.exit()


def take_over(client: socket.socket) -> list[str]:
    streams = socket.recv_fds(client, 1, 3)[1]
    arguments, folder, environment = json.loads(client.makefile().readline())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if program := os.fork():  # this one tells how the other ends, and ends it if nobody listens any more
        client.sendall(b"%d\n" % program)
        if client in select.select([client, os.pidfd_open(program)], [], [])[0]:
            os.kill(program, signal.SIGKILL)
        else:
            client.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]))
        os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", 1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return arguments


def ask(server: socket.socket) -> int:
    server.connect(os.environ[ADDRESS])
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps([sys.argv[1:], str(Path.cwd()), dict(os.environ)]).encode() + b"\n")
    answers = server.makefile()
    program = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(program, number))
    status = int(answers.readline())
    return status if status >= 0 else 128 - status  # ended by a signal, in the words of a shell


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        sys.argv[1:] = serve(socket.socket(fileno=int(sys.argv[2])))
    elif ADDRESS in os.environ:
        sys.exit(ask(socket.socket(socket.AF_UNIX)))
    del sys.argv[0]
    sys.path[0] = "" if sys.argv[0] == "-c" else str(Path(sys.argv[0]).parent)
    if sys.argv[0] == "-c":
        exec(sys.argv.pop(1), {"__name__": "__main__"})
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
