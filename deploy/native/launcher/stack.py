"""A stack: its folder, its ports, and what docker-compose.yml says, translated to this machine."""

import contextlib
import fcntl
import json
import os
import pathlib
import re

from . import compose, ports
from .errors import StackError
from .processes import Process

ROOT = pathlib.Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "docker-compose.yml"

# Beside the servers' own ports, which Debian's services may hold.
SERVER_PORTS = {5432: 15432, 6379: 16379, 9092: 19092, 9093: 19093, 27017: 17017}
METRICS_PORT = 9090
FIRST_METRICS_PORT = 9100
GATEWAY = "gateway"
MIGRATE = "migrate"
# The stand-in for MongoDB keeps its documents in the stack's Postgres.
NATIVE_DEPENDENCIES = {"mongodb": ["postgres"]}
# A process gets what the compose file gives it and no more, but it must find programs and its home; and whoever wants Java
# or Go to run otherwise says so as for any other program.
INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
INHERITED += ("JDK_JAVA_OPTIONS", "GOGC")


class Instance:
    """One process: a service of the compose file and which of its instances."""

    def __init__(self, service, number):
        self.service = service
        self.number = number
        self.name = service if number == 1 else f"{service}-{number}"


class Stack:
    """Everything about one stack that outlives a command stands in `stack.json` in its folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).absolute()
        self.state_file = self.folder / "stack.json"
        self.exists = self.state_file.exists()
        self.state = {"ports": {}, "scale": {}, "variables": {}, "extra": {}, "free_ports": False}
        if self.exists:
            self.state.update(json.loads(self.state_file.read_text()))
        self._services = None

    # ---- state --------------------------------------------------------------------------------------------------

    def save(self):
        """Writes the state file whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.state_file.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(self.state, indent=2, sort_keys=True) + "\n")
        partial.rename(self.state_file)
        self.exists = True

    def must_exist(self):
        """Fails when nothing was ever started here."""
        if not self.exists:
            raise StackError(f"there is no stack in {self.folder} (`./stack up` makes one)")

    @contextlib.contextmanager
    def lock(self, name="stack"):
        """Keeps two launchers from doing the same thing at once."""
        folder = self.folder / "run"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{name}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # ---- what the compose file says -----------------------------------------------------------------------------

    @property
    def services(self):
        """The services, with the variables this stack was brought up with filled in."""
        if self._services is None:
            text = COMPOSE.read_text()
            try:
                self._services = compose.substitute(compose.parse(text)["services"], self.known())
            except StackError as error:
                raise StackError(f"{COMPOSE.name}: {error}") from error
        return self._services

    def remember_variables(self, given):
        """Keeps the variables that the compose file refers to, so that a later `start` uses the same."""
        document = compose.parse(COMPOSE.read_text())
        names = compose.variables(document)
        now = {**compose.dotenv(ROOT / ".env"), **os.environ}
        self.state["variables"].update({name: value for name, value in now.items() if name in names})
        self.state["variables"].update(given)
        self._services = None

    def known(self):
        """The variables: of `.env`, of the environment, and (above them) those that the stack was brought up with."""
        return {**compose.dotenv(ROOT / ".env"), **os.environ, **self.state["variables"]}

    def kind(self, service):
        """`process` or `job` (ours), `gateway`, or `server`."""
        if service == GATEWAY:
            return "gateway"
        if self.services[service].get("image") != "socialhub":
            return "server"
        return "job" if self.services[service].get("restart") == "no" else "process"

    def waves(self):
        """The services in layers: each needs only services of the layers before it."""
        needs = {
            name: set(service.get("depends_on") or {}) | set(NATIVE_DEPENDENCIES.get(name, []))
            for name, service in self.services.items()
        }
        done, layers = set(), []
        while len(done) < len(needs):
            layer = [name for name in needs if name not in done and needs[name] <= done]
            if not layer:
                raise StackError(f"{COMPOSE.name}: services depend on each other in a circle")
            done |= set(layer)
            layers.append(layer)
        return layers

    def instances(self, service):
        """The processes that a service is to have."""
        return [Instance(service, number + 1) for number in range(self.state["scale"].get(service, 1))]

    def all_instances(self):
        """The processes of every service, in the order they start."""
        return [one for layer in self.waves() for service in layer for one in self.instances(service)]

    def find(self, name):
        """The process of a name; `feed` will do for `feed-service`, `feed-2` for `feed-service-2`."""
        by_name = {one.name: one for one in self.all_instances()}
        found = by_name.get(name) or by_name.get(self.service_name(re.sub(r"-\d+$", "", name)) + _number(name))
        if not found:
            raise StackError(f"no process `{name}`; there are: {', '.join(by_name)}")
        return found

    def service_name(self, name):
        """The whole name of a service: `feed` is `feed-service`, `posts` is `post-service`."""
        stem = name[:-1] if name.endswith("s") else name
        for candidate in (name, f"{name}-service", f"{stem}-service"):
            if candidate in self.services:
                return candidate
        return name

    def process(self, name):
        """The process of a name, running or not."""
        return Process(name, self.folder)

    # ---- translation to this machine ----------------------------------------------------------------------------

    def port(self, instance, container_port):
        """The port on this machine for a port in the container, chosen once."""
        key = f"{instance.name}:{container_port}"
        if key not in self.state["ports"]:
            self.state["ports"][key] = self._choose(instance, container_port)
        return self.state["ports"][key]

    def _choose(self, instance, container_port):
        if self.state["free_ports"]:
            return ports.choose_free(self.state_file)
        if container_port == METRICS_PORT:
            place = [name for name in self.services if self.kind(name) in ("job", "process")].index(instance.service)
            return FIRST_METRICS_PORT + 10 * place + instance.number - 1
        base = SERVER_PORTS.get(container_port, container_port)
        return base + 10 * (instance.number - 1)

    def volumes(self, instance):
        """Paths in the container and the folders or files of this machine that they stand for."""
        found = {}
        for entry in self.services[instance.service].get("volumes") or []:
            source, colon, rest = entry.partition(":")
            if not colon:
                found[source] = self.folder / "private" / instance.name / source.strip("/").replace("/", "-")
            elif source.startswith("."):
                found[rest.partition(":")[0]] = ROOT / source
            else:
                found[rest.partition(":")[0]] = self.folder / "volumes" / source
        return found

    def localise(self, text, instance):
        """Names of services, ports and paths of the containers, replaced by those of this machine."""
        names = "|".join(map(re.escape, self.services))

        def address(match):
            other = Instance(match["service"], 1) if match["service"] else instance
            return f"127.0.0.1:{self.port(other, int(match['port']))}"

        pattern = rf"(?<![\w.-])(?:(?P<service>{names})|0\.0\.0\.0|127\.0\.0\.1):(?P<port>\d+)\b"
        text = re.sub(pattern, address, text)
        for inside, outside in self.volumes(instance).items():
            text = re.sub(rf"(?<![\w.-]){re.escape(inside)}(?=[/,;:?\s]|$)", lambda _, path=str(outside): path, text)
        return text

    def environment(self, instance):
        """The environment that the compose file gives it, translated."""
        given = self.services[instance.service].get("environment") or {}
        # One without a value is passed on, when there is one to pass on.
        known = {name: self.known().get(name) if value is None else value for name, value in given.items()}
        return {name: self.localise(value, instance) for name, value in known.items() if value is not None}

    def inherited(self):
        """What a process sees of the launcher's own environment."""
        return {name: os.environ[name] for name in INHERITED if name in os.environ}

    def health_url(self, instance):
        """The address that its health check in the compose file asks, translated; none for those that ask otherwise."""
        test = (self.services[instance.service].get("healthcheck") or {}).get("test") or []
        urls = [part for part in test if part.startswith("http://")]
        return self.localise(urls[0], instance) if urls else None

    def ports_of(self, instance):
        """Its ports by what they are for."""
        names = {METRICS_PORT: "metrics", 9093: "controller"}
        prefix = f"{instance.name}:"
        found = {int(key[len(prefix) :]): port for key, port in self.state["ports"].items() if key.startswith(prefix)}
        return {names.get(inside, "listen"): port for inside, port in sorted(found.items())}

    def choose_ports(self):
        """Chooses every port that is still open, by translating everything once."""
        for instance in self.all_instances():
            self.environment(instance)
            self.health_url(instance)


def _number(name):
    match = re.search(r"-\d+$", name)
    return match[0] if match else ""
