"""The commands of `./stack`."""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import signal
import sys
import time

from . import gateway, install, ports, servers, specs
from .errors import StackError, say
from .processes import wait_until
from .stack import GATEWAY, ROOT, Instance, Stack


# How long a process may take to end, as in the compose file's longest grace period.
STOP_SECONDS = 60
# How many times as long as usual a process that says why it is not ready is waited for: a quarter of an hour, as in the
# compose file's start period.
PATIENT_ROUNDS = 15


def main():
    """Runs one command. 0 when it did what was asked, 1 when not, 2 when it was not understood."""
    arguments = _parser().parse_args()
    try:
        return arguments.run(Stack(arguments.dir), arguments) or 0
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="stack", description="The distributed profile of SocialHub without containers, from docker-compose.yml."
    )
    default = os.environ.get("SOCIALHUB_STACK_DIR") or str(ROOT / "stack-data")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--dir", default=default, help="folder of the stack [SOCIALHUB_STACK_DIR, ./stack-data]")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, text):
        sub = commands.add_parser(name, parents=[shared], help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    up = command("up", _up, "start what is not running, and wait until it answers")
    up.add_argument("--servers-only", action="store_true", help="only Postgres, Redis, Kafka and MongoDB's stand-in")
    up.add_argument(
        "--free-ports", action="store_true", help="free ports in place of the usual ones (a new stack only)"
    )
    up.add_argument("--gateway-port", type=int, metavar="N", help="port of the gateway [8080]")
    up.add_argument("--kafka-partitions", type=int, metavar="N", help="partitions of a topic when it is made [6]")
    up.add_argument("--scale", metavar="NAME=N,…", help="instances of a service, e.g. feed=2,chat=2,project-feed=3")
    up.add_argument("--bin", metavar="FILE", help="the program [SOCIALHUB_BIN, else built by cargo]")
    up.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable for our processes")
    command("down", _down, "stop everything; the data stays")
    command("destroy", _destroy, "stop everything and delete the data").add_argument("--yes", action="store_true")
    command("status", _status, "each process: pid, ports, whether it answers")
    logs = command("logs", _logs, "show logs")
    logs.add_argument("names", nargs="*", metavar="NAME")
    logs.add_argument("-f", "--follow", action="store_true", help="go on showing what is added")
    logs.add_argument("-n", "--lines", type=int, default=40, metavar="N", help="lines of each to begin with [40]")
    for name, run, text in (
        ("start", _start, "start processes that were stopped or killed"),
        ("stop", _stop, "stop processes cleanly"),
        ("restart", _restart, "stop and start processes"),
        ("kill", _kill, "send a signal to processes (and, for KILL, STOP and CONT, to their children)"),
    ):
        sub = command(name, run, text)
        sub.add_argument("names", nargs="+", metavar="NAME")
        if name == "kill":
            sub.add_argument("--signal", default="KILL", metavar="NAME", help="KILL (the default), STOP, CONT, TERM, …")
        if name in ("start", "restart"):
            sub.add_argument("--no-wait", action="store_true", help="do not wait until it answers")
    env = command("env", _env, "print the environment for running `socialhub` against this stack")
    env.add_argument("--json", action="store_true", help="as JSON, with every process, its ports and pid")
    return parser


# ---- up -------------------------------------------------------------------------------------------------------------


def _up(stack, arguments):
    with stack.lock():
        _settle(stack, arguments)
        chosen = [
            [one for service in layer for one in stack.instances(service) if _wanted(stack, service, arguments)]
            for layer in stack.waves()
        ]
        needed = dict(servers.PACKAGES)
        if not arguments.servers_only:
            needed |= gateway.PACKAGES
            stack.state["binary"] = str(_binary(stack, arguments))
            stack.save()
        install.packages(needed)
        _retire(stack)
        for layer in chosen:
            _start_together(stack, layer)
        if not arguments.servers_only:
            _refresh_gateway(stack)
    _print_addresses(stack, arguments.servers_only)


def _wanted(stack, service, arguments):
    return stack.kind(service) == "server" or not arguments.servers_only


def _settle(stack, arguments):
    """Takes over what the flags say; what they leave out stays as it was."""
    if arguments.free_ports:
        if stack.state["ports"] and not stack.state["free_ports"]:
            raise StackError(f"{stack.folder} has its ports already; `./stack destroy` it, or use another --dir")
        stack.state["free_ports"] = True
    stack.state["servers_only"] = arguments.servers_only
    given = {}
    if arguments.kafka_partitions is not None:
        if arguments.kafka_partitions < 1:
            raise StackError("--kafka-partitions must be at least 1")
        given["KAFKA_PARTITIONS"] = str(arguments.kafka_partitions)
    stack.remember_variables(given)
    if arguments.scale:
        stack.state["scale"] = _scale(stack, arguments.scale)
    for pair in arguments.env:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise StackError(f"--env {pair}: not NAME=VALUE")
        stack.state["extra"][name] = value
    # Claims are made in the name of the state file, so it must be there first.
    stack.save()
    if arguments.gateway_port:
        stack.state["ports"][f"{GATEWAY}:8080"] = arguments.gateway_port
    stack.choose_ports()
    stack.save()


def _scale(stack, text):
    found = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        service = stack.service_name(name.strip())
        if service not in stack.services or stack.kind(service) != "process":
            raise StackError(f"--scale {part}: no such process")
        if not count.isdigit() or not 1 <= int(count) <= 10:
            raise StackError(f"--scale {part}: a number from 1 to 10")
        found[service] = int(count)
    return found


def _binary(stack, arguments):
    """The program: the one named now or earlier, else what cargo builds (at once, when nothing has changed)."""
    named = arguments.bin or os.environ.get("SOCIALHUB_BIN") or (stack.state.get("named_binary"))
    if named:
        path = pathlib.Path(named).absolute()
        if not os.access(path, os.X_OK):
            raise StackError(f"there is no program {path}")
        stack.state["named_binary"] = str(path)
        return path
    if shutil.which("cargo"):
        return install.program(ROOT)
    built = ROOT / "target/release/socialhub"
    if not built.exists():
        raise StackError(
            "there is no cargo to build the program with: install Rust from https://rustup.rs, or give --bin"
        )
    return built


def _start_together(stack, instances):
    """Starts the processes that are down, then waits for all."""
    waiting = []
    for instance in instances:
        with stack.lock(instance.name):
            process = stack.process(instance.name)
            state = process.state()
            if state == "stopped":
                raise StackError(
                    f"{instance.name} was stopped by a signal; `./stack kill {instance.name} --signal CONT`"
                )
            if state == "down":
                waiting.append((instance, process, _launch(stack, instance, process), time.monotonic()))
            elif specs.reasons(stack, instance):
                # It was not ready when somebody else waited for it.
                waiting.append((instance, process, specs.of(stack, instance), time.monotonic()))
    for instance, process, spec, started in waiting:
        _await(stack, instance, process, spec)
        say(
            f"{instance.name}: {'done' if stack.kind(instance.service) == 'job' else 'ready'} "
            f"({time.monotonic() - started:.1f} s)"
        )


def _launch(stack, instance, process):
    spec = specs.of(stack, instance)
    busy = [port for port in stack.ports_of(instance).values() if not ports.is_free(port)]
    if busy:
        raise StackError(
            f"{instance.name}: port {busy[0]} is taken by somebody else; stop that, or use a new stack with --free-ports"
        )
    process.child = process.start(spec.command, spec.environment, spec.folder, spec.user)
    return spec


def _await(stack, instance, process, spec):
    if stack.kind(instance.service) == "job":
        # A job may take long (a big migration): it has no deadline.
        if process.child.wait() != 0:
            raise StackError(f"{instance.name} failed ({process.child.returncode}):\n{process.last_lines()}")
        process.record.unlink(missing_ok=True)
        return
    ready = specs.probe(stack, instance)
    for turn in range(1, PATIENT_ROUNDS + 1):
        wait_until(lambda: ready() or not process.pid(), spec.ready_seconds, pause=0.1)
        if not process.pid():
            raise StackError(f"{instance.name} has ended; the end of {process.log}:\n{process.last_lines()}")
        if ready():
            return spec.complete()
        # A model that is filled from a long log takes minutes, and its process says so.
        reasons = _reasons(stack, instance)
        if ready():
            return spec.complete()
        seconds = turn * spec.ready_seconds
        if not reasons:
            raise StackError(
                f"{instance.name} does not answer after {seconds} s; the end of {process.log}:\n{process.last_lines()}"
            )
        say(f"{instance.name} is not ready after {seconds} s: {reasons}")
    raise StackError(f"{instance.name} is not ready; it goes on, and `./stack up` waits for it again")


def _reasons(stack, instance):
    """Why an instance is not ready. On a busy machine one answer may be late."""
    return next(filter(None, (specs.reasons(stack, instance) for _ in range(3))), "")


def _retire(stack):
    """Stops instances beyond what --scale asks for."""
    wanted = {one.name for one in stack.all_instances()}
    for record in (stack.folder / "run").glob("*.json"):
        if record.stem not in wanted:
            _stop_together(stack, [record.stem])


def _refresh_gateway(stack):
    """Lets a gateway that was running already know of other instances."""
    instance = Instance(GATEWAY, 1)
    _, changed = gateway.write(stack, instance)
    if changed and stack.process(instance.name).pid():
        stack.process(instance.name).signal(signal.SIGHUP)
        say("gateway: read its configuration anew")


def _print_addresses(stack, servers_only):
    if not servers_only:
        print(f"SocialHub   {_gateway_url(stack)}")
    for instance in stack.all_instances():
        if stack.kind(instance.service) == "server":
            print(f"{instance.name:<11} 127.0.0.1:{stack.ports_of(instance)['listen']}")
    folder = "" if stack.folder == ROOT / "stack-data" else f" --dir {shlex.quote(str(stack.folder))}"
    print(f'\nenvironment: eval "$(./stack env{folder})"   logs: {stack.folder}/logs   stop: ./stack down{folder}')


# ---- down -----------------------------------------------------------------------------------------------------------


def _down(stack, _arguments):
    stack.must_exist()
    with stack.lock():
        _stop_everything(stack)


def _stop_everything(stack):
    known = [[one.name for service in layer for one in stack.instances(service)] for layer in stack.waves()]
    listed = {name for layer in known for name in layer}
    others = [record.stem for record in (stack.folder / "run").glob("*.json") if record.stem not in listed]
    for names in [others, *reversed(known)]:
        _stop_together(stack, names)


def _stop_together(stack, names):
    """Asks all to end at once, then sees to each."""
    found = [process for process in map(stack.process, names) if process.record.exists()]
    for process in found:
        process.ask_to_end(specs.stop_signal(process.name))
    for process in found:
        if process.see_it_end(STOP_SECONDS):
            say(f"{process.name}: stopped")
        else:
            say(f"{process.name}: did not stop in {STOP_SECONDS} s and was killed")


def _destroy(stack, arguments):
    if not arguments.yes:
        raise StackError(f"this deletes {stack.folder} with all its data; say --yes")
    stack.must_exist()
    with stack.lock():
        _stop_everything(stack)
        cluster = stack.state.get("postgres")
        if cluster:
            shutil.rmtree(pathlib.Path(cluster).parent, ignore_errors=True)
        ports.give_back(stack.state_file)
        # Only what is ours: the folder may be one that the user keeps other things in.
        for name in ("volumes", "private", "logs", "gateway", "run"):
            shutil.rmtree(stack.folder / name, ignore_errors=True)
        stack.state_file.unlink()
    if not any(stack.folder.iterdir()):
        stack.folder.rmdir()
    say(f"{stack.folder}: deleted")


# ---- single processes -----------------------------------------------------------------------------------------------


def _named(stack, arguments):
    stack.must_exist()
    return [stack.find(name) for name in arguments.names]


def _start(stack, arguments):
    for instance in _named(stack, arguments):
        with stack.lock(instance.name):
            process = stack.process(instance.name)
            if process.pid():
                say(f"{instance.name}: runs already")
                continue
            spec = _launch(stack, instance, process)
            if not arguments.no_wait:
                _await(stack, instance, process, spec)
        say(f"{instance.name}: started")


def _stop(stack, arguments):
    for instance in _named(stack, arguments):
        with stack.lock(instance.name):
            _stop_together(stack, [instance.name])


def _restart(stack, arguments):
    _stop(stack, arguments)
    _start(stack, arguments)


def _kill(stack, arguments):
    name = arguments.signal.upper().removeprefix("SIG")
    number = getattr(signal, f"SIG{name}", None)
    if number is None:
        raise StackError(f"no signal `{arguments.signal}`")
    for instance in _named(stack, arguments):
        process = stack.process(instance.name)
        process.signal(number)
        if number == signal.SIGKILL and not wait_until(lambda: not process.members(), 20):
            raise StackError(f"{instance.name} survives SIGKILL")
        say(f"{instance.name}: sent SIG{name}")


# ---- looking --------------------------------------------------------------------------------------------------------


def _status(stack, _arguments):
    stack.must_exist()
    rows = [("NAME", "STATE", "PID", "PORTS")]
    everything_up = True
    for instance in stack.all_instances():
        if stack.kind(instance.service) == "job":
            continue
        process = stack.process(instance.name)
        state = process.state()
        if state == "running":
            state = "ready" if specs.probe(stack, instance)() else "not ready"
        wanted = stack.kind(instance.service) == "server" or not stack.state["servers_only"]
        everything_up &= state == "ready" or not wanted
        listed = " ".join(f"{name}={port}" for name, port in stack.ports_of(instance).items())
        rows.append((instance.name, state, str(process.pid() or "-"), listed))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
    return 0 if everything_up else 3


def _logs(stack, arguments):
    stack.must_exist()
    chosen = _named(stack, arguments) if arguments.names else stack.all_instances()
    files = [str(stack.process(one.name).log) for one in chosen if stack.process(one.name).log.exists()]
    if not files:
        raise StackError("no logs yet")
    sys.stdout.flush()
    follow = ["-F"] if arguments.follow else []
    os.execvp("tail", ["tail", "-n", str(arguments.lines), *follow, *files])


def _gateway_url(stack):
    return f"http://127.0.0.1:{stack.port(Instance(GATEWAY, 1), 8080)}"


def _env(stack, arguments):
    stack.must_exist()
    environment = _common_environment(stack)
    if not arguments.json:
        for name, value in environment.items():
            print(f"export {name}={shlex.quote(value)}")
        return
    processes = {}
    for instance in stack.all_instances():
        process = stack.process(instance.name)
        listed = stack.ports_of(instance)
        processes[instance.name] = {
            "service": instance.service,
            "kind": stack.kind(instance.service),
            "state": process.state(),
            "pid": process.pid(),
            "ports": listed,
            "log": str(process.log),
        }
    answer = {
        "dir": str(stack.folder),
        "gateway": _gateway_url(stack),
        "binary": stack.state.get("binary"),
        "env": environment,
        "processes": processes,
    }
    print(json.dumps(answer, indent=2))


def _common_environment(stack):
    """What all of our processes have in common, for one more beside them."""
    ours = [one for one in stack.all_instances() if stack.kind(one.service) in ("process", "job")]
    each = [{**stack.environment(one), **stack.state["extra"]} for one in ours]
    common = {name: value for name, value in each[0].items() if all(other.get(name) == value for other in each)}
    return {**common, "DATA_DIR": str(stack.folder / "private" / "shell")}
