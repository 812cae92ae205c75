"""Choosing ports that stay ours, also while the process behind one is down and beside other stacks."""

import errno
import os
import pathlib
import random
import socket
import tempfile

from .errors import StackError

# Below the ports that Linux gives to outgoing connections: one of those could take the port of a server that restarts.
FREE = range(20_000, 32_000)


def is_free(port):
    """Whether nobody listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
        return True


def _claims():
    folder = pathlib.Path(tempfile.gettempdir()) / f"socialhub-stack-ports.{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _claim(port, owner):
    """Notes that the port belongs to the stack, unless another stack that still exists has it."""
    note = _claims() / str(port)
    for _ in range(2):
        try:
            with open(note, "x") as file:
                file.write(str(owner))
            return True
        except FileExistsError:
            try:
                holder = note.read_text()
            except FileNotFoundError:
                continue
            if holder and pathlib.Path(holder).exists():
                return False
            note.unlink(missing_ok=True)
    return False


def choose_free(owner):
    """A random free port, claimed for the stack whose state file is `owner`."""
    for port in random.sample(FREE, 500):
        if is_free(port) and _claim(port, owner):
            return port
    raise StackError(f"no free port between {FREE.start} and {FREE.stop}")


def give_back(owner):
    """Forgets the claims of a stack."""
    for note in _claims().iterdir():
        try:
            if note.read_text() == str(owner):
                note.unlink()
        except FileNotFoundError:
            pass
