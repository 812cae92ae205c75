#!/usr/bin/env python3
"""Stands in for the program in the launcher's tests: listens where it is told to and says what it was told."""

import http.server
import json
import os
import sys
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        body = json.dumps({"arguments": sys.argv[1:], "pid": os.getpid(), "environment": dict(os.environ)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def listen(name):
    host, port = os.environ[name].rsplit(":", 1)
    return http.server.ThreadingHTTPServer((host, int(port)), Handler)


print("started", *sys.argv[1:], flush=True)
if sys.argv[1:] == ["migrate"]:
    sys.exit(int(os.environ.get("MIGRATE_EXIT", "0")))
servers = [listen(name) for name in ("LISTEN", "METRICS_LISTEN") if name in os.environ]
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
