"""Reads docker-compose.yml: the plain subset of YAML that it is written in, and its ${VARIABLES}."""

import re

from .errors import StackError

KEY = re.compile(r"""(?P<key>"[^"]*"|'[^']*'|[^\s"'\[\]{}#&*!|>%@`][^:#]*?)\s*:(?:\s+(?P<rest>.*))?$""")
VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<kind>:?[-?])(?P<default>[^}]*))?\}|(?P<bare>\w+))")


class _Parser:
    """A recursive descent over lines of (indent, text, line number)."""

    def __init__(self, text):
        self.lines = []
        self.at = 0
        self.anchors = {}
        for number, line in enumerate(text.splitlines(), 1):
            stripped = _without_comment(line).rstrip()
            if not stripped.strip():
                continue
            body = stripped.lstrip(" ")
            if body.startswith("\t"):
                raise StackError(f"line {number}: indented by a tab")
            self.lines.append((len(stripped) - len(body), body, number))

    def fail(self, why):
        number = self.lines[min(self.at, len(self.lines) - 1)][2]
        raise StackError(f"line {number}: {why}")

    def block(self, indent):
        """The map or list that starts at the present line."""
        return self.sequence(indent) if self.lines[self.at][1].startswith("- ") else self.mapping(indent)

    def sequence(self, indent):
        items = []
        while self.here(indent) and self.lines[self.at][1].startswith("- "):
            item, number = self.lines[self.at][1][2:].strip(), self.lines[self.at][2]
            if KEY.match(item):
                # A map, whose other keys stand below its first.
                self.lines[self.at] = (indent + 2, item, number)
                items.append(self.mapping(indent + 2))
                continue
            items.append(self.scalar(item))
            self.at += 1
        return items

    def mapping(self, indent):
        merged, own = {}, {}
        while self.here(indent):
            match = KEY.match(self.lines[self.at][1])
            if not match:
                self.fail("neither `key: value` nor `- item`")
            key, rest = _unquoted(match["key"]), match["rest"] or ""
            value = self.value(rest, indent)
            if key == "<<":
                merged.update(value)
            elif key in own:
                self.at -= 1
                self.fail(f"`{key}` stands twice")
            else:
                own[key] = value
        return {**merged, **own}

    def value(self, rest, indent):
        anchor = None
        if rest.startswith("&"):
            anchor, _, rest = rest[1:].partition(" ")
        self.at += 1
        if rest:
            self.at -= 1
            value = self.scalar(rest.strip())
            self.at += 1
        elif self.at < len(self.lines) and self.lines[self.at][0] > indent:
            value = self.block(self.lines[self.at][0])
        else:
            value = None
        if anchor:
            self.anchors[anchor] = value
        return value

    def here(self, indent):
        if self.at >= len(self.lines) or self.lines[self.at][0] < indent:
            return False
        if self.lines[self.at][0] > indent:
            self.fail("indented too far")
        return True

    def scalar(self, text):
        if text.startswith("*"):
            if text[1:] not in self.anchors:
                self.fail(f"unknown alias `{text}`")
            return self.anchors[text[1:]]
        if text.startswith("["):
            if not text.endswith("]"):
                self.fail("a list in brackets must end on its line")
            parts = re.findall(r"""\s*("[^"]*"|'[^']*'|[^,]+)\s*(?:,|$)""", text[1:-1])
            return [_unquoted(part.strip()) for part in parts]
        if text[0] in "{|>!&":
            self.fail(f"`{text}` is beyond the subset of YAML that this file is written in")
        return _unquoted(text)


def _without_comment(line):
    quote = None
    for index, char in enumerate(line):
        if quote:
            quote = None if char == quote else quote
        elif char in "\"'" and (index == 0 or line[index - 1] in " [,"):
            quote = char
        elif char == "#" and (index == 0 or line[index - 1] in " \t"):
            return line[:index]
    return line


def _unquoted(text):
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def parse(text):
    """A document of the subset as dicts, lists and strings."""
    parser = _Parser(text)
    document = parser.block(0)
    if parser.at < len(parser.lines):
        parser.fail("not understood")
    return document


def dotenv(path):
    """The variables of a `.env` file, if there is one."""
    found = {}
    if path.exists():
        for line in path.read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith("#"):
                found[name.strip()] = _unquoted(value.strip())
    return found


def variables(document):
    """The names of all variables that the document refers to, or takes from the environment by giving no value."""
    if isinstance(document, dict):
        inherited = {name for name, value in document.items() if value is None and name.isupper()}
        return inherited.union(*(variables(value) for value in document.values()))
    if isinstance(document, list):
        return set().union(*(variables(value) for value in document))
    found = VARIABLE.finditer(document) if isinstance(document, str) else ()
    return {match["name"] or match["bare"] for match in found} - {None}


def substitute(value, known):
    """Fills in `${NAME}`, `${NAME:-default}` and `${NAME:?message}`, as Compose does."""
    if isinstance(value, dict):
        return {key: substitute(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, known) for item in value]
    if not isinstance(value, str):
        return value

    def fill(match):
        if match["escaped"]:
            return "$"
        name, kind = match["name"] or match["bare"], match["kind"] or ""
        given = known.get(name)
        if given is not None and (given or not kind.startswith(":")):
            return given
        if kind.endswith("?"):
            raise StackError(f"{name} is not set: {match['default']}")
        return match["default"] or ""

    return VARIABLE.sub(fill, value)
