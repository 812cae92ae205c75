"""How each process is prepared, started, asked whether it is ready, and stopped."""

import os
import signal

from . import gateway, probes, servers
from .errors import StackError


class Spec:
    """What is needed to run one process; `complete` is done once it answers."""

    def __init__(self, command, environment, folder, user=None, complete=lambda: None, ready_seconds=60):
        self.command = command
        self.environment = environment
        self.folder = folder
        self.user = user
        self.complete = complete
        self.ready_seconds = ready_seconds


def of(stack, instance):
    """The spec of an instance. Making it also makes the files and folders that it starts from."""
    kind = stack.kind(instance.service)
    environment = {**stack.inherited(), **stack.environment(instance)}
    if kind == "gateway":
        return Spec(**gateway.spec(stack, instance))
    if kind == "server":
        make, _ = _server(instance)
        return Spec(**make(stack, instance, environment))
    return _program(stack, instance, environment)


def probe(stack, instance):
    """A function that says whether the instance answers."""
    if stack.kind(instance.service) == "server":
        _, ready = _server(instance)
        return lambda: ready(stack, instance)
    url = stack.health_url(instance)
    return lambda: url is None or probes.http_ok(url)


def reasons(stack, instance):
    """Why the instance is not ready, in its own words; nothing when it has none."""
    url = stack.health_url(instance) if stack.kind(instance.service) != "server" else None
    return probes.not_ready(url) if url else ""


def stop_signal(name):
    """What asks a process to end. For Postgres the fast shutdown: connections are ended, what was committed stays."""
    return signal.SIGINT if name == "postgres" else signal.SIGTERM


def _server(instance):
    known = servers.KNOWN.get(instance.service)
    if not known:
        raise StackError(f"the launcher knows no native server for the service `{instance.service}`")
    return known


def _program(stack, instance, environment):
    """A process of SocialHub: the compose file's own command, with this machine's binary."""
    program, *arguments = stack.services[instance.service]["command"]
    if program != "socialhub":
        raise StackError(f"{instance.service}: the command must start with `socialhub`")
    binary = stack.state.get("binary")
    if not binary or not os.access(binary, os.X_OK):
        raise StackError(f"there is no program `{binary}`: give one with --bin, or run `./stack up`")
    for folder in stack.volumes(instance).values():
        folder.mkdir(parents=True, exist_ok=True)
    return Spec(
        command=[binary, *(stack.localise(argument, instance) for argument in arguments)],
        environment={**environment, **stack.state["extra"]},
        folder=stack.folder,
    )
