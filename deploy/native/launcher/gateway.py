"""nginx: the template of the containers, filled in for this machine."""

import pwd
import re

from . import install
from .errors import StackError

PACKAGES = {"nginx": "nginx"}
VARIABLE = re.compile(r"\$\{(\w+)\}")


def _values(stack, instance):
    """Each variable's values: an upstream has one for each instance of its service."""
    given = stack.services[instance.service]["environment"]
    values = {}
    for name, value in given.items():
        # Behind the address stands how the containers find it; here all are known.
        service, colon, port = value.partition(" ")[0].partition(":")
        if name.endswith("_UPSTREAM") and colon and service in stack.services:
            values[name] = [f"127.0.0.1:{stack.port(one, int(port))}" for one in stack.instances(service)]
        else:
            values[name] = [stack.localise(value, instance)]
    values["NGINX_USER"] = [user()]
    return values


def user():
    """The user that the workers run as: the image's own is not known to Debian."""
    try:
        return pwd.getpwnam("www-data").pw_name
    except KeyError:
        return "nobody nogroup"


def render(template, values):
    """Fills in a template. A line whose variable has several values is repeated for each."""
    lines = []
    for line in template.splitlines():
        names = [name for name in VARIABLE.findall(line) if name in values]
        for index in range(max([len(values[name]) for name in names], default=1)):
            lines.append(VARIABLE.sub(lambda match: _value(match, values, index), line))
    return "\n".join(lines) + "\n"


def _value(match, values, index):
    options = values.get(match[1])
    if options is None:
        raise StackError(f"the nginx template wants ${{{match[1]}}}, which the compose file does not give")
    return options[min(index, len(options) - 1)]


def write(stack, instance):
    """Writes the configuration. Says where, and whether it is another than before."""
    template = next(path for path in stack.volumes(instance).values() if path.suffix == ".template")
    folder = stack.folder / "gateway"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "nginx.conf"
    text = render(template.read_text(), _values(stack, instance))
    changed = not file.exists() or file.read_text() != text
    if changed:
        # It holds the gateway's secret.
        file.touch(mode=0o600)
        file.write_text(text)
    return file, changed


def spec(stack, instance):
    """How the gateway is run."""
    file, _ = write(stack, instance)
    for path in stack.volumes(instance).values():
        if path.suffix != ".template":
            path.mkdir(parents=True, exist_ok=True)
    nginx = install.find("nginx")
    common = [nginx, "-p", f"{file.parent}/", "-c", str(file), "-e", "stderr"]
    install.run([*common, "-t", "-q"])
    return {
        "command": [*common, "-g", "daemon off;"],
        "environment": stack.inherited(),
        "folder": stack.folder,
    }
