"""Asking servers whether they answer, in their own protocols and without a client library."""

import contextlib
import http.client
import json
import socket
import struct
import urllib.parse


def _exchange(port, request, header):
    """Sends a request and reads the answer, whose length `header(bytes)` tells from its first four bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(request)
        answer = b""
        while len(answer) < 4 or len(answer) < header(answer[:4]):
            part = connection.recv(65_536)
            if not part:
                break
            answer += part
        return answer


def redis(port):
    """PING; while the server still reads its log it answers LOADING."""
    try:
        return _exchange(port, b"PING\r\n", lambda _: 5).startswith(b"+PONG")
    except OSError:
        return False


def kafka(port):
    """Metadata: the broker answers, and the controller has let it in."""
    client = b"stack"
    # Metadata version 1 with no topic at all.
    body = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
    try:
        answer = _exchange(port, struct.pack(">i", len(body)) + body, lambda size: 4 + struct.unpack(">i", size)[0])
    except OSError:
        return False
    # Length, correlation id, then the number of brokers.
    return len(answer) >= 12 and struct.unpack(">i", answer[8:12])[0] > 0


def mongodb(port):
    """`listDatabases`, which has to go to the storage behind."""

    def document(*elements):
        inside = b"".join(elements)
        return struct.pack("<i", len(inside) + 5) + inside + b"\0"

    command = b"\x10listDatabases\0" + struct.pack("<i", 1)
    names = b"\x08nameOnly\0\x01"
    database = b"\x02$db\0" + struct.pack("<i", 6) + b"admin\0"
    # OP_MSG: no flags, one section of kind 0.
    message = struct.pack("<i", 0) + b"\0" + document(command, names, database)
    request = struct.pack("<iiii", 16 + len(message), 1, 0, 2013) + message
    try:
        answer = _exchange(port, request, lambda size: struct.unpack("<i", size)[0])
    except OSError:
        return False
    return b"\x01ok\0" + struct.pack("<d", 1.0) in answer


def http_ok(url):
    """Whether the address answers 200."""
    status, _ = _get(url)
    return status == 200


def not_ready(url):
    """What a process that answers says it is waiting for; nothing when it is ready, or does not answer."""
    status, body = _get(url)
    if status != 503:
        return ""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return "; ".join(f"{part['name']}: {part['reason']}" for part in json.loads(body)["notReady"])
    return ""


def _get(url):
    """Status and body, or nothing of both."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=3)
    try:
        connection.request("GET", parts.path or "/")
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None, b""
    finally:
        connection.close()
