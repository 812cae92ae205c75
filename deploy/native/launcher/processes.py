"""Starting, finding and signalling processes, and being sure that they are ours."""

import contextlib
import json
import os
import pathlib
import pwd
import resource
import signal
import subprocess
import time

from .errors import StackError


class Process:
    """One named process of a stack. Its record outlives the launcher: pid and start time tell that it is ours."""

    def __init__(self, name, folder):
        self.name = name
        self.record = folder / "run" / f"{name}.json"
        self.log = folder / "logs" / f"{name}.log"

    def start(self, command, environment, folder, user=None):
        """Starts it in a session of its own, so that it outlives the launcher, with its output in its log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.record.parent.mkdir(parents=True, exist_ok=True)
        # As many open files as may be: a child inherits the limit.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        extra = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
        with open(self.log, "ab") as log:
            try:
                child = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd=folder,
                    start_new_session=True,
                    **extra,
                )
            except OSError as error:
                raise StackError(f"{self.name}: cannot start {command[0]}: {error}") from error
        started = _stat(child.pid)
        record = {"pid": child.pid, "started": started["started"] if started else None}
        partial = self.record.with_suffix(".partial")
        partial.write_text(json.dumps(record))
        partial.rename(self.record)
        # The child is this launcher's only until it exits: remember it, so that its end is noticed.
        _children[child.pid] = child
        return child

    def pid(self):
        """The process id while it runs, else none."""
        stat = self._stat()
        return stat["pid"] if stat and stat["state"] not in "ZX" else None

    def state(self):
        """`running`, `stopped` (by a signal), or `down`."""
        stat = self._stat()
        if not stat or stat["state"] in "ZX":
            return "down"
        return "stopped" if stat["state"] in "Tt" else "running"

    def _recorded(self):
        try:
            return json.loads(self.record.read_text())
        except (OSError, ValueError):
            return None

    def _stat(self):
        record = self._recorded()
        if not record:
            return None
        child = _children.get(record["pid"])
        if child:
            child.poll()
        stat = _stat(record["pid"])
        return stat if stat and stat["started"] == record["started"] else None

    def members(self):
        """The process with all it has started: its descendants, and whoever is still in its session."""
        record = self._recorded()
        if not record:
            return []
        leader = _stat(record["pid"])
        if leader and leader["started"] != record["started"]:
            # The number was given to somebody else, which cannot be while a process of our session lives.
            return []
        everyone = _all_stats()
        ours = {record["pid"]} if leader else set()
        ours |= {stat["pid"] for stat in everyone if stat["session"] == record["pid"]}
        grown = True
        while grown:
            more = {stat["pid"] for stat in everyone if stat["parent"] in ours} - ours
            ours |= more
            grown = bool(more)
        alive = {stat["pid"] for stat in everyone if stat["state"] not in "ZX"}
        return sorted(ours & alive)

    def signal(self, number):
        """Sends a signal. What takes effect unasked goes to the whole family: a stopped parent alone stops nothing."""
        unasked = number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT)
        targets = self.members() if unasked else [pid for pid in [self.pid()] if pid]
        if not targets:
            raise StackError(f"{self.name} is not running")
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def ask_to_end(self, number):
        """Sends the signal that ends it, once: a second one makes many programs drop what they are at."""
        if self.state() == "stopped":
            self.signal(signal.SIGCONT)
        pid = self.pid()
        # When it has gone without its children, they are asked.
        for one in [pid] if pid else self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, number)

    def see_it_end(self, seconds):
        """Waits until nothing of it is left, and kills what has not gone in time. Says whether it went by itself."""
        by_itself = wait_until(lambda: not self.members(), seconds)
        if not by_itself:
            self.signal(signal.SIGKILL)
            if not wait_until(lambda: not self.members(), 20):
                raise StackError(f"{self.name} (pids {self.members()}) survives SIGKILL")
        self.record.unlink(missing_ok=True)
        return by_itself

    def last_lines(self, count=15):
        """The end of its log, for error messages."""
        try:
            with open(self.log, "rb") as log:
                log.seek(max(0, os.path.getsize(self.log) - 16_384))
                lines = log.read().decode(errors="replace").splitlines()[-count:]
        except OSError:
            return "(no log)"
        return "\n".join(f"    {line}" for line in lines)


_children = {}


def is_zombie(pid):
    """Whether it has ended and nobody has asked how: some first processes of containers never do."""
    stat = _stat(pid)
    return bool(stat) and stat["state"] in "ZX"


def at_work_in(folder):
    """Whether a process has the folder as its working directory."""
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd") == str(folder):
                return True
        except OSError:
            pass
    return False


def wait_until(condition, seconds, pause=0.05):
    """Polls until the condition holds. Says whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def _stat(pid):
    """What /proc says of a process. The name in the second field may hold blanks and brackets: read on from its end."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return {
        "pid": pid,
        "state": fields[0],
        "parent": int(fields[1]),
        "session": int(fields[3]),
        "started": int(fields[19]),
    }


def _all_stats():
    found = (_stat(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [stat for stat in found if stat]
