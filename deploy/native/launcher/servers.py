"""The native servers: PostgreSQL, Redis, Kafka, and FerretDB in the place of MongoDB."""

import hashlib
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

from . import install, probes
from .errors import StackError, say
from .processes import at_work_in, is_zombie

NATIVE = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = "ferretdb"
# Debian's packages, by a program of each.
PACKAGES = {
    "postgres": "postgresql",
    "psql": "postgresql-client",
    "redis-server": "redis-server",
    "java": "default-jre-headless",
}


def _volume(stack, instance):
    """The folder that stands for the service's one volume."""
    folder = next(iter(stack.volumes(instance).values()))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ---- PostgreSQL -----------------------------------------------------------------------------------------------------


def postgres(stack, instance, environment):
    """PostgreSQL refuses to run as root: root starts it as `postgres`."""
    user = "postgres" if os.geteuid() == 0 else None
    folder = _postgres_folder(stack, instance, user)
    port = stack.port(instance, 5432)
    if not (folder / "PG_VERSION").exists():
        _initdb(folder, environment, user)
    _forget_the_dead(folder)
    arguments = stack.services[instance.service].get("command", ["postgres"])[1:]
    fixed = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "logging_collector": "off"}
    for name, value in fixed.items():
        arguments += ["-c", f"{name}={value}"]
    return {
        "command": [install.find("postgres"), "-D", folder, *arguments],
        "environment": stack.inherited(),
        "user": user,
        "folder": folder,
        "complete": lambda: _make_databases(stack, environment),
    }


def _postgres_folder(stack, instance, user):
    """The data folder: in the stack's, or where `postgres` can go when the way there is closed to it."""
    known = stack.state.get("postgres")
    if known:
        return pathlib.Path(known)
    folder = _volume(stack, instance)
    if user:
        shutil.chown(folder, user, user)
        reaches = subprocess.run(
            ["ls", folder], user=user, group=user, extra_groups=[], capture_output=True, check=False
        )
        if reaches.returncode != 0:
            home = pathlib.Path(pwd.getpwnam(user).pw_dir) / "socialhub-stack"
            home.mkdir(parents=True, exist_ok=True)
            shutil.chown(home, user, user)
            folder = home / hashlib.sha256(str(stack.folder).encode()).hexdigest()[:12]
            say(f"postgres: the user `{user}` cannot get to {stack.folder}; its data is in {folder}")
    folder = folder / "data"
    stack.state["postgres"] = str(folder)
    stack.save()
    return folder


def _initdb(folder, environment, user):
    """Makes the cluster aside and renames it: half a one is never started."""
    say("postgres: making a cluster")
    as_user = {"user": user, "group": user, "extra_groups": []} if user else {}
    partial = folder.with_name("data.partial")
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user:
        shutil.chown(folder.parent, user, user)
    shutil.rmtree(partial, ignore_errors=True)
    # Beside the data, since the way to the folder for temporary files may be closed to its user.
    with tempfile.NamedTemporaryFile("w", prefix="socialhub-", dir=folder.parent) as password:
        password.write(environment["POSTGRES_PASSWORD"])
        password.flush()
        if user:
            shutil.chown(password.name, user)
        command = [install.find("initdb"), "-D", partial, "-U", environment["POSTGRES_USER"], "-E", "UTF8"]
        command += ["--locale=C.UTF-8", "-A", "scram-sha-256", f"--pwfile={password.name}"]
        install.run(command, cwd="/", **as_user)
    partial.rename(folder)


def _forget_the_dead(folder):
    """Removes the lock of a killed server that is still a zombie: Postgres would take it for a living one.

    Its children work in the data folder; while one of them lives the lock stays, and Postgres refuses to start.
    """
    lock = folder / "postmaster.pid"
    if lock.exists():
        first = lock.read_text().split()[0]
        if is_zombie(int(first)) and not at_work_in(folder.resolve()):
            lock.unlink()


def address(stack, database=None):
    """The URL of a database of the stack's PostgreSQL."""
    instance = stack.instances("postgres")[0]
    given = stack.environment(instance)
    user, password = given["POSTGRES_USER"], given["POSTGRES_PASSWORD"]
    return f"postgres://{user}:{password}@127.0.0.1:{stack.port(instance, 5432)}/{database or given['POSTGRES_DB']}"


def _psql(stack, database, statement, check=True):
    """Runs a statement; gives what it printed, or none when it failed and may."""
    # In the environment, since everybody on the machine can read arguments.
    environment = {**stack.inherited(), "PGCONNECT_TIMEOUT": "5"}
    instance = stack.instances("postgres")[0]
    given = stack.environment(instance)
    environment |= {"PGHOST": "127.0.0.1", "PGPORT": str(stack.port(instance, 5432)), "PGDATABASE": database}
    environment |= {"PGUSER": given["POSTGRES_USER"], "PGPASSWORD": given["POSTGRES_PASSWORD"]}
    command = [install.find("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
    if result.returncode == 0:
        return result.stdout or "done"
    if check:
        raise StackError(f"postgres: `{statement}`: {result.stderr.strip()}")
    return None


def _make_databases(stack, environment):
    for name in (environment["POSTGRES_DB"], DOCUMENTS):
        if _psql(stack, "postgres", f"select 1 from pg_database where datname = '{name}'").strip() != "1":
            _psql(stack, "postgres", f'create database "{name}"')
    _psql(stack, DOCUMENTS, (NATIVE / "ferretdb/lookups.sql").read_text())


# ---- Redis ----------------------------------------------------------------------------------------------------------


def redis(stack, instance, environment):
    """Redis, as the compose file runs it."""
    folder, port = _volume(stack, instance), stack.port(instance, 6379)
    arguments = stack.services[instance.service]["command"][1:]
    fixed = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--daemonize", "no"]
    return {
        "command": [install.find("redis-server"), *arguments, *fixed],
        # Redis compares texts in scripts by its locale, and its image has none.
        "environment": {**environment, "LC_ALL": "C"},
        "folder": folder,
    }


# ---- Kafka ----------------------------------------------------------------------------------------------------------


def kafka(stack, instance, environment):
    """The real broker from its jars. Its image turns `KAFKA_A_B` into the property `a.b`; so does this."""
    environment = dict(environment)
    heap = environment.pop("KAFKA_HEAP_OPTS", "-Xmx768m").split()
    cluster = environment.pop("CLUSTER_ID")
    properties = {
        name[len("KAFKA_") :].lower().replace("_", "."): value
        for name, value in environment.items()
        if name.startswith("KAFKA_")
    }
    data = _volume(stack, instance)
    file = data.parent / "kafka.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in sorted(properties.items())))
    jars = install.kafka()
    java = [install.find("java"), *heap, f"-Dlog4j2.configurationFile={NATIVE / 'kafka/log4j2.properties'}"]
    java += ["-Djava.awt.headless=true", "-cp", f"{jars}/*"]
    if not (data / "meta.properties").exists():
        say("kafka: formatting its storage")
        format_it = [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
        install.run([*format_it, "-t", cluster, "-c", str(file)], cwd=data.parent, env=stack.inherited())
    return {
        "command": [*java, "kafka.Kafka", file],
        "environment": stack.inherited(),
        "folder": data.parent,
        "ready_seconds": 120,
    }


# ---- MongoDB --------------------------------------------------------------------------------------------------------


def mongodb(stack, instance, _environment):
    """FerretDB: MongoDB's protocol over a database of the stack's PostgreSQL."""
    port = stack.port(instance, 27017)
    return {
        "command": [install.ferretdb(), "-listen", f"127.0.0.1:{port}"],
        "environment": {**stack.inherited(), "FERRETDB_POSTGRESQL_URL": address(stack, DOCUMENTS)},
        "folder": stack.folder,
    }


def _answers(container_port, probe):
    """A readiness check by a probe of the port."""
    return lambda stack, instance: probe(stack.port(instance, container_port))


# Each server: what makes its spec, and what says whether it answers.
KNOWN = {
    "postgres": (postgres, lambda stack, _: _psql(stack, "postgres", "select 1", check=False) is not None),
    "redis": (redis, _answers(6379, probes.redis)),
    "kafka": (kafka, _answers(9092, probes.kafka)),
    "mongodb": (mongodb, _answers(27017, probes.mongodb)),
}
