"""Finds or fetches what the native servers need: Debian packages, Kafka's jars, the FerretDB server."""

import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from .errors import StackError, say

NATIVE = pathlib.Path(__file__).resolve().parent.parent
POSTGRES_BIN = "/usr/lib/postgresql"


def cache():
    """The folder for what was downloaded or built, kept apart from the data so that those can be thrown away."""
    base = os.environ.get("SOCIALHUB_STACK_CACHE")
    if base:
        return pathlib.Path(base)
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "socialhub-stack"


def packages(names_by_program):
    """Installs the Debian packages whose programs are missing."""
    missing = sorted({package for program, package in names_by_program.items() if not find(program)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise StackError(f"missing, and there is no apt-get to install them: {', '.join(missing)}")
    say(f"installing Debian packages: {' '.join(missing)}")
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    try:
        run([*as_root, "apt-get", "update", "-q"])
        run([*as_root, *environment, "apt-get", "install", "-q", "-y", "--no-install-recommends", *missing])
    except FileNotFoundError as error:
        raise StackError(f"cannot install {' '.join(missing)}: not root, and {error.filename} is missing") from error
    still = sorted({package for program, package in names_by_program.items() if not find(program)})
    if still:
        raise StackError(f"installed, yet their programs are not there: {', '.join(still)}")


def find(program):
    """The path of a program, also where Debian hides it from PATH."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/local/go/bin:/usr/sbin:/sbin")
    if found:
        return found
    versions = sorted(pathlib.Path(POSTGRES_BIN).glob(f"*/bin/{program}"), key=lambda path: int(path.parts[-3]))
    return str(versions[-1]) if versions else None


def kafka():
    """The folder of the broker's jars."""
    return _made("kafka", [NATIVE / "kafka/pom.xml"], _kafka)


def _kafka(target):
    packages({"mvn": "maven", "java": "default-jre-headless"})
    say("fetching Kafka from Maven Central (about 55 MB)")
    pom = str(NATIVE / "kafka/pom.xml")
    run(["mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={target}"])


def ferretdb():
    """The MongoDB stand-in's program."""
    sources = [NATIVE / "ferretdb" / name for name in ("main.go", "go.mod", "go.sum")]
    return _made("ferretdb", sources, _ferretdb) / "ferretdb"


def _ferretdb(target):
    go = find("go")
    version = run([go, "env", "GOVERSION"]).strip() if go else "none"
    # Debian 12's own is too old; from 1.21 on, Go fetches the version that a module asks for.
    if not re.match(r"go1\.(2[1-9]|[3-9]\d)", version):
        raise StackError(f"Go 1.21 or newer is needed to build FerretDB (found: {version}): https://go.dev/dl")
    say("building FerretDB (about a minute)")
    environment = {**os.environ, "CGO_ENABLED": "0"}
    # -buildvcs=false: the checkout may be another user's.
    command = [go, "build", "-buildvcs=false", "-trimpath", "-o", str(target / "ferretdb"), "."]
    run(command, cwd=NATIVE / "ferretdb", env=environment)


def _made(name, sources, make):
    """A cached folder that changes its name with its sources. Made aside and renamed: half a one is never used."""
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    folder = cache() / f"{name}-{digest}"
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = cache() / f"{name}-{digest}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


def program(root):
    """Builds the program and answers where it is: people keep what cargo builds in a folder of their own choice. What cargo
    says is shown, since it may take minutes. At once when nothing has changed."""
    say("building the program (cargo build --release --features distributed)")
    command = ["cargo", "build", "--release", "--locked", "--features", "distributed"]
    if subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode != 0:
        raise StackError("the program does not build")
    about = run(["cargo", "metadata", "--no-deps", "--format-version", "1", "--locked"], cwd=root)
    return pathlib.Path(json.loads(about)["target_directory"]) / "release/socialhub"


def run(command, **options):
    """Runs a command to its end and shows what it said only when it fails."""
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options)
    if result.returncode != 0:
        said = (result.stdout + result.stderr).strip()[-3000:]
        raise StackError(f"`{' '.join(map(str, command))}` failed ({result.returncode}):\n{said}")
    return result.stdout
