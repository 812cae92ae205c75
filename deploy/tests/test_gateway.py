"""The gateway's configuration in a real nginx, before small services that say what they were asked."""

import collections
import contextlib
import http.client
import http.server
import json
import pathlib
import random
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/native"))

from launcher import compose, gateway, install, ports  # noqa: E402

SECRET = "the-gateways-secret"
USER = '{"id":"1","username":"ada"}'
PAGE = "http://localhost:5173"


def free_port():
    """One that no outgoing connection takes while nobody listens on it."""
    return next(port for port in random.sample(ports.FREE, 500) if ports.is_free(port))


class Service(http.server.ThreadingHTTPServer):
    """Answers with what it was asked. The auth service's question is answered as the real one answers it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, name, port=None, host="127.0.0.1"):
        self.name = name
        self.asked = []
        self.connections = 0
        self.behaviour = None
        super().__init__((host, port or free_port()), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"

    def process_request(self, request, client_address):
        self.connections += 1
        super().process_request(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def handle_any(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.read_body(headers)
        asked = {"service": self.server.name, "method": self.command, "path": self.path, "headers": headers}
        asked["length"] = len(body)
        self.server.asked.append(asked)
        if self.server.behaviour:
            return self.server.behaviour(self)
        if headers.get("upgrade") == "websocket":
            return self.hold()
        if self.path == "/api/v1/auth/verify-user" and headers.get("x-gateway-check"):
            good = headers.get("authorization") == "Bearer good"
            if good:
                return self.answer(204, b"", {"x-user-payload": USER})
            return self.answer(
                401, b'{"valid":false}', {"WWW-Authenticate": "Bearer", "Content-Type": "application/json"}
            )
        open_to_all = self.server.name in ("auth", "chat1", "chat2") or "/events/" in self.path
        if not open_to_all and "x-user-payload" not in headers:
            problem = {
                "Content-Type": "application/problem+json",
                "WWW-Authenticate": "Bearer",
                "X-Request-Id": "theirs",
            }
            problem |= {"Access-Control-Allow-Origin": PAGE}
            return self.answer(401, json.dumps({"error": "Unauthorized", **asked}).encode(), problem)
        return self.answer(200, json.dumps(asked).encode(), {"Content-Type": "application/json"})

    def read_body(self, headers):
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                size = int(self.rfile.readline(), 16)
                body += self.rfile.read(size)
                self.rfile.readline()
                if not size:
                    return body
        return self.rfile.read(int(headers.get("content-length", 0)))

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def hold(self):
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.end_headers()
        self.wfile.flush()
        # An echo, until the client goes.
        while part := self.connection.recv(1024):
            self.connection.sendall(part)
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_any


Answer = collections.namedtuple("Answer", "status headers body")


class BehindNginx(unittest.TestCase):
    """A gateway before one service of each kind, and two for the chat."""

    @classmethod
    def setUpClass(cls):
        names = ("auth", "users", "posts", "notifications", "feed", "chat1", "chat2")
        cls.services = {name: Service(name) for name in names}
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="socialhub-gateway-"))
        cls.port = free_port()
        values = {
            "NGINX_USER": [gateway.user()],
            "RUN_DIR": [str(cls.folder)],
            "RESOLVER": ["127.0.0.1"],
            "ACCESS_LOG": ["off"],
            "GATEWAY_SECRET": [SECRET],
            "GATEWAY_LISTEN": [f"127.0.0.1:{cls.port}"],
            "CORS_ORIGINS": [f"https://other.example,{PAGE}"],
            "CHAT_UPSTREAM": [cls.services["chat1"].address, cls.services["chat2"].address],
        }
        values |= {f"{name.upper()}_UPSTREAM": [cls.services[name].address] for name in names[:5]}
        values |= cls.values()
        template = (ROOT / "deploy/nginx/nginx.conf.template").read_text()
        file = cls.folder / "nginx.conf"
        file.write_text(gateway.render(template, values))
        command = [install.find("nginx"), "-p", f"{cls.folder}/", "-c", str(file), "-e", "stderr", "-g", "daemon off;"]
        cls.log = open(cls.folder / "log", "wb")
        cls.nginx = subprocess.Popen(command, stderr=cls.log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", cls.port)):
                break
            if time.monotonic() > deadline or cls.nginx.poll() is not None:
                raise AssertionError((cls.folder / "log").read_text())
            time.sleep(0.02)

    @classmethod
    def values(cls):
        """What is filled in otherwise than usual."""
        return {}

    @classmethod
    def tearDownClass(cls):
        cls.nginx.terminate()
        cls.nginx.wait()
        cls.log.close()
        for service in cls.services.values():
            service.shutdown()
            service.server_close()
        shutil.rmtree(cls.folder)

    def setUp(self):
        for service in self.services.values():
            service.asked.clear()
            service.behaviour = None

    def ask(self, method, path, headers=None, body=None, token="good"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        connection.request(method, path, body=body, headers=sent)
        response = connection.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        connection.close()
        return answer

    def asked(self, *arguments, **more):
        return json.loads(self.ask(*arguments, **more).body)


class Names(socketserver.ThreadingUDPServer):
    """A name server that knows one name, and says where that is now."""

    daemon_threads = True

    def __init__(self, address):
        self.address = address
        super().__init__(("127.0.0.1", 0), Asked)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class Asked(socketserver.BaseRequestHandler):
    def handle(self):
        query, reply = self.request
        question = query[12 : query.index(b"\0", 12) + 5]
        header = query[:2] + b"\x81\x80" + b"\0\x01" * 2 + b"\0" * 4
        # The name as in the question, an IPv4 address, for an hour.
        record = b"\xc0\x0c\0\x01\0\x01" + (3600).to_bytes(4, "big") + b"\0\x04"
        reply.sendto(header + question + record + socket.inet_aton(self.server.address), self.client_address)


def version():
    """Of the nginx that is here."""
    said = subprocess.run([install.find("nginx"), "-v"], capture_output=True, text=True, check=True).stderr
    return tuple(int(part) for part in re.search(r"nginx/([\d.]+)", said)[1].split("."))


class Containers(unittest.TestCase):
    def test_every_service_is_asked_for_again(self):
        services = compose.parse((ROOT / "docker-compose.yml").read_text())["services"]
        given = services["gateway"]["environment"]
        upstreams = [value for name, value in given.items() if name.endswith("_UPSTREAM")]
        self.assertEqual(len(upstreams), 6)
        for value in upstreams:
            self.assertRegex(value, r"^[a-z-]+:\d+ resolve$")
        tag = services["gateway"]["image"].removeprefix("nginx:")
        self.assertGreaterEqual(tuple(map(int, tag.split("."))), (1, 28))
        text = gateway.render(
            (ROOT / "deploy/nginx/nginx.conf.template").read_text(), {name: [value] for name, value in given.items()}
        )
        self.assertIn("resolver 127.0.0.11 valid=5s", text)
        self.assertEqual(len(re.findall(r"server [a-z-]+:\d+ resolve max_fails", text)), 7)


class MovedServices(BehindNginx):
    """A service whose name means another address than when nginx started."""

    @classmethod
    def setUpClass(cls):
        if version() < (1, 27, 3):
            raise unittest.SkipTest("this nginx is older than that of the containers: it asks for names once")
        super().setUpClass()

    @classmethod
    def values(cls):
        cls.names = Names("127.0.0.1")
        port = cls.services["users"].server_address[1]
        return {
            "RESOLVER": [f"127.0.0.1:{cls.names.server_address[1]}"],
            "USERS_UPSTREAM": [f"users-service:{port} resolve"],
        }

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.names.shutdown()
        cls.names.server_close()

    def eventually_at(self, name):
        deadline = time.monotonic() + 30
        while True:
            answer = self.ask("GET", "/users/profile/1")
            if answer.status == 200 and json.loads(answer.body)["service"] == name:
                return
            self.assertLess(time.monotonic(), deadline, f"{name} was never asked: {answer}")
            time.sleep(0.05)

    def test_a_service_that_moves_is_found(self):
        self.eventually_at("users")
        moved = Service("moved", self.services["users"].server_address[1], "127.0.0.2")
        self.addCleanup(moved.server_close)
        self.addCleanup(moved.shutdown)
        self.names.address = "127.0.0.2"
        self.eventually_at("moved")


class Gateway(BehindNginx):
    # ---- where requests go --------------------------------------------------------------------------------------

    def test_each_path_goes_to_its_service_below_api_v1(self):
        cases = {
            "/auth/login": ("auth", "/api/v1/auth/login"),
            "/api/v1/auth/me?x=1": ("auth", "/api/v1/auth/me?x=1"),
            "/users/profile/1": ("users", "/api/v1/users/profile/1"),
            "/api/v1/users/search?q=a%20b": ("users", "/api/v1/users/search?q=a%20b"),
            "/posts": ("posts", "/api/v1/posts"),
            "/posts/": ("posts", "/api/v1/posts/"),
            "/api/v1/posts/1/like": ("posts", "/api/v1/posts/1/like"),
            "/notify/notifications?unread=true": ("notifications", "/api/v1/notify/notifications?unread=true"),
            "/notify/stream": ("notifications", "/api/v1/notify/stream"),
            "/feed/": ("feed", "/api/v1/feed/"),
            "/api/feed": ("feed", "/api/v1/feed"),
            "/api/feed/?page=2": ("feed", "/api/v1/feed/?page=2"),
            "/api/feed/stream": ("feed", "/api/v1/feed/stream"),
            "/api/v1/feed/trending": ("feed", "/api/v1/feed/trending"),
            "/events/stream?after=5&types=post.created": ("feed", "/api/v1/events/stream?after=5&types=post.created"),
            "/api/v1/events/stream": ("feed", "/api/v1/events/stream"),
            "/livez": ("auth", "/livez"),
            "/openapi.json": ("auth", "/openapi.json"),
            "/docs": ("auth", "/docs"),
            "/postscript": ("auth", "/postscript"),
            "/": ("auth", "/"),
        }
        for path, expected in cases.items():
            with self.subTest(path):
                asked = self.asked("GET", path)
                self.assertEqual((asked["service"], asked["path"]), expected)

    def test_a_path_arrives_as_it_was_sent(self):
        self.assertEqual(self.asked("GET", "/users/profile/a%2Fb%20c")["path"], "/api/v1/users/profile/a%2Fb%20c")
        self.assertEqual(self.asked("GET", "/users//x/../y")["path"], "/api/v1/users//x/../y")

    def test_chat_history_goes_to_any_instance(self):
        asked = self.asked("GET", "/chat/rooms/r/messages")
        self.assertEqual((asked["service"][:4], asked["path"]), ("chat", "/api/v1/chat/rooms/r/messages"))

    def test_media_pass_without_a_question(self):
        asked = self.asked("GET", "/media/1/a.png", headers={"Range": "bytes=0-1"}, token=None)
        self.assertEqual((asked["service"], asked["path"]), ("posts", "/media/1/a.png"))
        self.assertEqual(asked["headers"]["range"], "bytes=0-1")
        self.assertEqual(self.services["auth"].asked, [])

    def test_the_operators_token_reaches_the_firehose_without_a_question(self):
        headers = {"Last-Event-ID": "7", "X-User-Payload": '{"id":"2"}'}
        asked = self.asked("GET", "/events/stream", headers=headers, token="the operator's")
        self.assertEqual(asked["headers"]["authorization"], "Bearer the operator's")
        self.assertEqual(asked["headers"]["last-event-id"], "7")
        self.assertNotIn("x-user-payload", asked["headers"])
        self.assertEqual(self.services["auth"].asked, [])

    # ---- who asks -----------------------------------------------------------------------------------------------

    def test_the_service_learns_who_it_is_once_and_from_the_gateway_alone(self):
        forged = {"X-User-Payload": '{"id":"2"}', "X-Gateway-Secret": "guess", "X-Gateway-Check": "1"}
        for path in ("/users/profile/1", "/posts/", "/notify/stream", "/api/feed/", "/chat/rooms/r/messages"):
            with self.subTest(path):
                headers = self.asked("GET", path, headers=forged)["headers"]
                self.assertEqual((headers["x-user-payload"], headers["x-gateway-secret"]), (USER, SECRET))
                self.assertNotIn("x-gateway-check", headers)
                self.assertEqual(headers["authorization"], "Bearer good")

    def test_forged_headers_go_nowhere_on_paths_without_a_question(self):
        forged = {"X-User-Payload": '{"id":"2"}', "X-Gateway-Secret": "guess", "X-Gateway-Check": "1"}
        for path in ("/auth/verify-user", "/media/1/a", "/socket.io/?EIO=4&transport=polling", "/livez"):
            with self.subTest(path):
                headers = self.asked("GET", path, headers=forged)["headers"]
                self.assertEqual(headers["x-gateway-secret"], SECRET)
                self.assertNotIn("x-user-payload", headers)
                self.assertNotIn("x-gateway-check", headers)

    def test_the_question_is_small(self):
        self.ask("POST", "/posts/", headers={"Cookie": "c", "Content-Type": "text/plain"}, body=b"x" * 100)
        (question,) = self.services["auth"].asked
        self.assertEqual(question["method"], "GET")
        self.assertEqual(question["length"], 0)
        self.assertEqual(question["headers"]["x-gateway-check"], "1")
        self.assertEqual(question["headers"]["x-gateway-secret"], SECRET)
        self.assertEqual(question["headers"]["x-forwarded-for"], "127.0.0.1")
        self.assertNotIn("cookie", question["headers"])

    def test_without_a_good_token_the_service_says_so_itself(self):
        for token in (None, "bad"):
            for method, path in (("GET", "/users/profile/1"), ("POST", "/posts/"), ("GET", "/api/feed/stream")):
                with self.subTest((token, method, path)):
                    answer = self.ask(method, path, token=token, body=b"hello" if method == "POST" else None)
                    self.assertEqual(answer.status, 401)
                    self.assertEqual(answer.headers.get_all("Content-Type"), ["application/problem+json"])
                    self.assertEqual(answer.headers.get_all("WWW-Authenticate"), ["Bearer"])
                    self.assertEqual(answer.headers.get_all("X-Request-Id"), ["theirs"])
                    self.assertEqual(answer.headers.get_all("Access-Control-Allow-Origin"), [PAGE])
                    problem = json.loads(answer.body)
                    self.assertEqual(problem["error"], "Unauthorized")
                    self.assertEqual(problem["method"], method)
                    self.assertEqual(problem["length"], 5 if method == "POST" else 0)
                    self.assertNotIn("x-user-payload", problem["headers"])

    def test_a_preflight_reaches_the_service_without_a_question(self):
        preflight = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
        self.services["posts"].behaviour = lambda handler: handler.answer(
            204, b"", {"Access-Control-Allow-Origin": PAGE}
        )
        answer = self.ask("OPTIONS", "/posts/", headers=preflight, token=None)
        self.assertEqual((answer.status, answer.headers["Access-Control-Allow-Origin"]), (204, PAGE))
        self.assertEqual(self.services["auth"].asked, [])

    def test_when_the_auth_service_fails_the_services_check_by_themselves(self):
        self.services["auth"].behaviour = lambda handler: handler.answer(503, b"", {})
        problem = self.asked("GET", "/users/profile/1")
        self.assertEqual((problem["service"], problem["headers"]["authorization"]), ("users", "Bearer good"))
        self.assertNotIn("x-user-payload", problem["headers"])

    def test_a_removal_says_who_asks(self):
        headers = self.asked("DELETE", "/posts/1?x=a%20b", headers={"X-User-Payload": '{"id":"2"}'})
        self.assertEqual((headers["service"], headers["path"]), ("posts", "/api/v1/posts/1?x=a%20b"))
        self.assertEqual(headers["headers"]["x-user-payload"], USER)
        self.assertEqual(self.ask("DELETE", "/posts/1", token="bad").status, 401)

    # ---- what is passed on --------------------------------------------------------------------------------------

    def test_the_clients_address_and_request_id(self):
        headers = self.asked("GET", "/auth/me", headers={"X-Request-Id": "mine-1", "X-Forwarded-For": "9.9.9.9"})[
            "headers"
        ]
        self.assertEqual(headers["x-request-id"], "mine-1")
        self.assertEqual(headers["x-forwarded-for"], "9.9.9.9, 127.0.0.1")
        self.assertEqual(headers["host"], f"127.0.0.1:{self.port}")
        made = self.asked("GET", "/auth/me", headers={"X-Request-Id": "not plain {}"})["headers"]
        self.assertRegex(made["x-request-id"], "^[0-9a-f]{32}$")

    def test_connections_to_the_services_are_kept(self):
        for method, body in (("GET", None), ("POST", b"x" * 100), ("POST", None), ("DELETE", None)):
            for name in ("auth", "users"):
                self.services[name].connections = 0
            for _ in range(50):
                self.asked(method, "/users/profile/1", body=body)
            with self.subTest((method, body)):
                # Two workers, each with one of its own.
                self.assertLessEqual(self.services["auth"].connections, 4)
                self.assertLessEqual(self.services["users"].connections, 4)

    def test_uploads_stream_and_have_a_fence(self):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = "POST /posts/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Length: 3000000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 1_000_000)
        arrived = threading.Event()
        self.services["posts"].behaviour = lambda handler: arrived.set() or handler.answer(201, b"", {})
        connection.sendall(b"x" * 2_000_000)
        self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 201"))
        self.assertEqual(self.services["posts"].asked[-1]["length"], 3_000_000)
        connection.close()
        self.services["posts"].behaviour = None
        self.assertEqual(list((self.folder / "client_body").rglob("*")), [])
        for path, size in (("/posts/", 111 * 1024 * 1024), ("/users/profile", 1024 * 1024 + 1)):
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Length: {size}\r\n\r\n"
            connection.sendall(head.encode())
            answer = connection.recv(4096)
            self.assertTrue(answer.startswith(b"HTTP/1.1 413"), answer)
            self.assertIn(b"application/problem+json", answer)
            connection.close()

    def test_streams_are_not_held_back(self):
        more = threading.Event()

        def stream(handler):
            handler.send_response(200)
            handler.send_header("Content-Type", "text/event-stream")
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(b"data: 1\n\n")
            handler.wfile.flush()
            more.wait(60)
            handler.close_connection = True

        for service, path in (
            ("feed", "/api/feed/stream"),
            ("notifications", "/notify/stream"),
            ("feed", "/events/stream"),
        ):
            more.clear()
            self.services[service].behaviour = stream
            # What is held back comes after that, at the end.
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            connection.request("GET", path, headers={"Authorization": "Bearer good"})
            self.assertEqual(connection.getresponse().read(9), b"data: 1\n\n")
            more.set()
            connection.close()

    # ---- chat ---------------------------------------------------------------------------------------------------

    def open_websocket(self, query):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = f"GET /socket.io/?EIO=4&transport=websocket{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        connection.sendall(
            f"{head}Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n".encode()
        )
        self.assertTrue(connection.recv(1024).startswith(b"HTTP/1.1 101"))
        return connection

    def counts(self):
        return [len(self.services[name].asked) for name in ("chat1", "chat2")]

    def test_websockets_spread_over_the_instances(self):
        held = [self.open_websocket("") for _ in range(10)]
        self.assertEqual(self.counts(), [5, 5])
        held[0].sendall(b"ping")
        self.assertEqual(held[0].recv(10), b"ping")
        for connection in held:
            connection.close()
        self.assertEqual(self.services["auth"].asked, [])

    def test_a_polling_session_stays_on_one_instance(self):
        self.ask("GET", "/socket.io/?EIO=4&transport=polling", token=None)
        for _ in range(5):
            self.ask("GET", "/socket.io/?EIO=4&transport=polling&sid=abc", token=None)
            self.ask("POST", "/socket.io/?EIO=4&transport=polling&sid=abc", token=None, body=b"40")
        self.open_websocket("&sid=abc").close()
        self.assertEqual(sorted(self.counts()), [0, 12])

    # ---- when a service is away ---------------------------------------------------------------------------------

    def assert_problem(self, answer, status, error):
        self.assertEqual(answer.status, status)
        problem = json.loads(answer.body)
        self.assertEqual((problem["status"], problem["error"]), (status, error))
        self.assertEqual(answer.headers.get_all("Content-Type"), ["application/problem+json"])
        self.assertEqual(answer.headers.get_all("Retry-After"), ["1"])
        self.assertEqual(answer.headers.get_all("X-Request-Id"), [problem["requestId"]])
        self.assertEqual(answer.headers.get_all("Access-Control-Allow-Origin"), [PAGE])

    def test_a_service_that_is_down_is_a_503(self):
        port = self.services["feed"].server_address[1]
        self.services["feed"].shutdown()
        self.services["feed"].server_close()
        try:
            # The first request may still find a connection that was kept.
            self.ask("GET", "/api/feed/")
            for method in ("GET", "POST"):
                self.assert_problem(
                    self.ask(method, "/api/feed/", headers={"Origin": PAGE}), 503, "Service unavailable"
                )
        finally:
            self.services["feed"] = Service("feed", port)

    def test_a_command_that_was_sent_and_not_answered_is_unknown(self):
        def vanish(handler):
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)

        self.services["posts"].behaviour = vanish
        self.assert_problem(self.ask("POST", "/posts/", headers={"Origin": PAGE}, body=b"x"), 504, "outcome unknown")
        self.assert_problem(self.ask("GET", "/posts/1", headers={"Origin": PAGE}), 503, "Service unavailable")
        self.assertEqual([one["method"] for one in self.services["posts"].asked].count("POST"), 1)

    def test_a_services_own_503_passes_untouched(self):
        self.services["users"].behaviour = lambda handler: handler.answer(503, b"mine", {"Retry-After": "7"})
        answer = self.ask("GET", "/users/profile/1", headers={"Origin": PAGE})
        self.assertEqual((answer.status, answer.body, answer.headers.get_all("Retry-After")), (503, b"mine", ["7"]))
        self.assertEqual(answer.headers.get_all("Access-Control-Allow-Origin"), None)

    def test_what_is_not_http_gets_a_problem_too(self):
        for text, status in (
            (b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
            (b"GET / HTTP/1.1\r\nA: " + b"x" * 9000 + b"\r\n\r\n", b"431"),
        ):
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
            connection.sendall(text)
            answer = connection.recv(4096)
            self.assertTrue(answer.startswith(b"HTTP/1.1 " + status), answer)
            self.assertIn(b"application/problem+json", answer)
            connection.close()


class Failing(BehindNginx):
    """Apart: nginx leaves alone for a while what has failed, and favours the others for longer."""

    def setUp(self):
        super().setUp()
        self.instances = [self.services["chat1"], self.services["chat2"]]

    def wait_until_both_are_asked(self):
        deadline = time.monotonic() + 20
        while not all(service.asked for service in self.instances):
            self.assertLess(time.monotonic(), deadline, "an instance is never asked again")
            self.ask("GET", "/chat/rooms/r/messages")
            time.sleep(0.05)

    def test_what_may_have_been_carried_out_is_not_said_again(self):
        def vanish(handler):
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)

        def fail(handler):
            handler.answer(503, b"", {})

        for method, status, times, auth in (
            ("DELETE", 504, 1, None),
            ("DELETE", 504, 1, fail),
            ("POST", 504, 1, None),
            ("POST", 504, 1, fail),
            ("GET", 503, 2, None),
        ):
            self.setUp()
            self.services["auth"].behaviour = auth
            self.wait_until_both_are_asked()
            for service in self.instances:
                service.asked.clear()
                service.behaviour = vanish
            answer = self.ask(method, "/chat/rooms/r/messages")
            with self.subTest(method, auth=auth):
                self.assertEqual(answer.status, status)
                self.assertEqual(sum(len(service.asked) for service in self.instances), times)


if __name__ == "__main__":
    unittest.main()
