"""`./stack` with the real servers and a stand-in for the program: all of it starts, can be hurt, and goes away."""

import http.client
import http.server
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/native"))

from launcher import cli, install, probes, specs  # noqa: E402
from launcher.errors import StackError  # noqa: E402

FAKE = ROOT / "deploy/tests/fake_socialhub.py"


def wait_for(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"in vain: {what}")
        time.sleep(0.05)


class Launcher:
    """`./stack` in one folder."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, command, *arguments, expect=0, **environment):
        call = [ROOT / "stack", command, "--dir", self.folder, *arguments]
        result = subprocess.run(
            call, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=900
        )
        if result.returncode != expect:
            raise AssertionError(f"{command} {arguments}: {result.returncode}\n{result.stdout}{result.stderr}")
        return result.stdout + result.stderr

    def environment(self):
        return json.loads(self("env", "--json"))

    def process(self, name):
        return self.environment()["processes"][name]

    def get(self, port, path="/"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer


def processes_of(folder):
    """Every process that names the folder in its arguments or works in it."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            arguments = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
            here = os.readlink(f"/proc/{entry}/cwd")
        except OSError:
            continue
        if arguments and (str(folder) in arguments or here.startswith(str(folder))):
            found.append((int(entry), arguments.replace("\0", " ")))
    return found


class Stack(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.parent = pathlib.Path(tempfile.mkdtemp(prefix="socialhub-stack-"))
        # So that the servers' user can go through to its data.
        cls.parent.chmod(0o755)
        cls.stack = Launcher(cls.parent / "one")
        cls.stack(
            "up", "--free-ports", "--bin", str(FAKE), "--kafka-partitions", "3", "--scale", "feed=2", RATE_LIMITS="off"
        )

    @classmethod
    def tearDownClass(cls):
        cls.stack("down")
        left = processes_of(cls.parent)
        shutil.rmtree(cls.parent)
        assert not left, f"still there: {left}"

    def test_everything_answers(self):
        self.assertNotIn("not ready", self.stack("status"))

    def test_the_program_gets_what_the_compose_file_says_translated(self):
        known = self.stack.environment()
        port = known["processes"]["feed-service-2"]["ports"]["listen"]
        told = self.stack.get(port)
        self.assertEqual(told["arguments"], ["service", "feed"])
        given = told["environment"]
        self.assertEqual(given["LISTEN"], f"127.0.0.1:{port}")
        self.assertEqual(given["KAFKA_PARTITIONS"], "3")
        self.assertEqual(given["RATE_LIMITS"], "off")
        for place in ("media", "analytics"):
            # Who looks from a shell has to look where the others write.
            url = known["env"][f"{place.upper()}_URL"]
            self.assertEqual(url, f"file://{self.stack.folder}/volumes/{place}")
        for name, value in known["env"].items():
            if name != "DATA_DIR":
                self.assertEqual(given[name], value)
        kafka = known["processes"]["kafka"]["ports"]["listen"]
        self.assertEqual(given["KAFKA_BROKERS"], f"127.0.0.1:{kafka}")

    def test_up_again_changes_nothing(self):
        before = self.stack.environment()
        self.stack("up")
        self.assertEqual(self.stack.environment(), before)

    def test_the_gateway_learns_of_more_instances(self):
        gateway = urllib.parse.urlsplit(self.stack.environment()["gateway"])
        pid = self.stack.process("gateway")["pid"]

        def seen():
            return {self.stack.get(gateway.port, "/api/feed/")["pid"] for _ in range(12)}

        for count in (3, 2):
            self.stack("up", "--scale", f"feed={count}")
            wait_for(lambda count=count: len(seen()) == count, f"{count} instances of feed behind the gateway")
        self.assertEqual(self.stack.process("gateway")["pid"], pid)

    def test_signals(self):
        pid = self.stack.process("relay")["pid"]
        self.stack("kill", "relay", "--signal", "STOP")
        wait_for(lambda: self.stack.process("relay")["state"] == "stopped", "the relay to be stopped")
        self.stack("kill", "relay", "--signal", "CONT")
        wait_for(lambda: self.stack.process("relay")["state"] == "running", "the relay to go on")
        self.stack("kill", "relay")
        self.assertEqual(self.stack.process("relay")["state"], "down")
        self.assertIn("relay is not running", self.stack("kill", "relay", expect=1))
        self.assertRegex(self.stack("status", expect=3), r"relay +down")
        self.stack("start", "relay")
        self.assertNotEqual(self.stack.process("relay")["pid"], pid)

    def test_servers_keep_their_data(self):
        known = self.stack.environment()
        database, redis = known["env"]["DATABASE_URL"], known["env"]["REDIS_URL"]

        def postgres(statement):
            return subprocess.check_output(["psql", "-XAtq", database, "-c", statement], text=True).strip()

        def cache(*words):
            return subprocess.check_output(["redis-cli", "-u", redis, *words], text=True).strip()

        topics = ["java", "-cp", f"{install.kafka()}/*", "org.apache.kafka.tools.TopicCommand"]
        brokers = known["env"]["KAFKA_BROKERS"]
        subprocess.check_output([*topics, "--bootstrap-server", brokers, "--create", "--topic", "kept"], text=True)
        subprocess.run(["kcat", "-b", brokers, "-t", "kept", "-P"], input="7", text=True, check=True)

        def record():
            return subprocess.check_output(["kcat", "-b", brokers, "-t", "kept", "-C", "-e", "-q"], text=True).strip()

        postgres("create table kept (n int); insert into kept values (7)")
        cache("set", "kept", "7")
        for way in (["restart"], ["kill"]):
            self.stack(*way, "postgres", "redis", "kafka", "mongodb")
            if way == ["kill"]:
                self.assertEqual(
                    [self.stack.process(name)["state"] for name in ("postgres", "redis")], ["down", "down"]
                )
                self.stack("start", "postgres", "redis", "kafka", "mongodb")
            self.assertEqual((postgres("select n from kept"), cache("get", "kept"), record()), ("7", "7", "7"))
        # Every process still answers on its port.
        self.stack("status")
        self.assertEqual(postgres("show fsync") + postgres("show synchronous_commit"), "onon")

    def test_documents_are_looked_up_by_an_index(self):
        database = urllib.parse.urlsplit(self.stack.environment()["env"]["DATABASE_URL"])._replace(path="/ferretdb")
        # As FerretDB makes a collection, an index of it, and a query for one value of a field.
        made = """create schema probe;
            create table probe.documents (_jsonb jsonb);
            insert into probe.documents select jsonb_build_object('_id', n::text) from generate_series(1, 20000) n;
            create unique index documents_id on probe.documents (((_jsonb -> '_id')));
            create index documents_user on probe.documents (((_jsonb -> 'user')), ((_jsonb -> 'position')) desc);
            prepare one(text, jsonb) as select _jsonb from probe.documents where _jsonb -> $1 @> $2;"""
        ask = """explain (costs off) execute one('_id', '"17"');"""
        # After five times Postgres may take to a plan that is right for any field.
        plans = subprocess.check_output(["psql", "-XAtq", database.geturl(), "-c", made + ask * 8], text=True)
        self.assertEqual(plans.count("Bitmap Index Scan on lookup_"), 8, plans)
        kept = "select count(*), count(*) filter (where indexname like 'documents%') from pg_indexes where schemaname = 'probe'"
        kept = subprocess.check_output(["psql", "-XAtq", database.geturl(), "-c", kept], text=True)
        self.assertEqual(kept.strip(), "3|1", "a look-up for each of the two fields, and what keeps ids apart")

    def test_nobody_elses_process_is_touched(self):
        innocent = subprocess.Popen(["sleep", "600"], start_new_session=True)
        try:
            self.stack("stop", "project-counters")
            record = self.stack.folder / "run/project-counters.json"
            record.write_text(json.dumps({"pid": innocent.pid, "started": 1}))
            self.assertEqual(self.stack.process("project-counters")["state"], "down")
            self.stack("kill", "project-counters", expect=1)
            self.stack("stop", "project-counters")
            self.assertIsNone(innocent.poll())
            self.stack("start", "project-counters")
        finally:
            innocent.kill()
            innocent.wait()

    def test_two_stacks_stand_side_by_side(self):
        other = Launcher(self.parent / "two")
        other("up", "--free-ports", "--servers-only")
        here, there = self.stack.environment()["env"], other.environment()["env"]
        for name in ("DATABASE_URL", "REDIS_URL", "KAFKA_BROKERS", "MONGODB_URL"):
            self.assertNotEqual(here[name], there[name])
        other("status")
        other("destroy", "--yes")
        self.assertFalse(other.folder.exists())
        self.assertEqual(processes_of(other.folder), [])
        self.stack("status")

    def test_what_fails_says_why(self):
        self.stack("stop", "migrate")
        text = self.stack("up", "--env", "MIGRATE_EXIT=4", expect=1)
        self.assertIn("migrate failed (4)", text)
        self.assertIn("started migrate", text)
        self.stack("up", "--env", "MIGRATE_EXIT=0")
        self.assertIn("no process `nobody`", self.stack("start", "nobody", expect=1))
        self.assertIn("there is no stack", Launcher(self.parent / "none")("status", expect=1))

    def test_a_killed_gateway_leaves_no_worker(self):
        self.stack("kill", "gateway", "--signal", "KILL")
        nginx = [text for _, text in processes_of(self.stack.folder) if "nginx" in text]
        self.assertEqual(nginx, [])
        self.stack("start", "gateway")

    def test_what_it_starts_outlives_it_and_ends_when_asked(self):
        pid = self.stack.process("relay")["pid"]
        self.assertEqual(os.getsid(pid), pid)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: self.stack.process("relay")["state"] == "down", "the relay to end")
        self.stack("up")
        self.assertEqual(self.stack.process("relay")["state"], "running")


class Program(unittest.TestCase):
    def test_it_is_where_cargo_was_told_to_put_it(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder) / "sources"
            (root / "src").mkdir(parents=True)
            (root / "src/main.rs").write_text("fn main() {}\n")
            manifest = '[package]\nname = "socialhub"\nedition = "2024"\n[features]\ndistributed = []\n[workspace]\n'
            (root / "Cargo.toml").write_text(manifest)
            subprocess.run(["cargo", "generate-lockfile", "--offline"], cwd=root, check=True)
            elsewhere = pathlib.Path(folder) / "elsewhere"
            with mock.patch.dict(os.environ, CARGO_TARGET_DIR=str(elsewhere)):
                built = install.program(root)
            self.assertEqual(built, elsewhere / "release/socialhub")
            self.assertTrue(os.access(built, os.X_OK))


class Waiting(unittest.TestCase):
    """A process that says why it is not ready is waited for longer than one that says nothing."""

    def wait(self, ready, reasons):
        stack, instance, process = mock.Mock(), mock.Mock(), mock.Mock()
        instance.name = "project-counters"
        stack.kind.return_value = "program"
        process.last_lines.return_value = "its last line"
        spec = specs.Spec([], {}, None, ready_seconds=0.01)
        with (
            mock.patch.object(specs, "probe", return_value=ready),
            mock.patch.object(specs, "reasons", return_value=reasons),
            mock.patch.object(cli, "say") as say,
        ):
            try:
                cli._await(stack, instance, process, spec)
            finally:
                said = [call.args[0] for call in say.call_args_list]
        return said

    def test_who_says_nothing_is_given_up(self):
        with self.assertRaisesRegex(StackError, "does not answer after 0.01 s[^$]*its last line"):
            self.wait(lambda: False, "")

    def test_who_says_why_is_waited_for(self):
        answers = iter([False] * 5)
        said = self.wait(lambda: next(answers, True), "projection counters: filled from the log")
        self.assertIn("project-counters is not ready after 0.01 s: projection counters: filled from the log", said)

    def test_but_not_for_ever(self):
        with self.assertRaisesRegex(StackError, "`./stack up` waits for it again"):
            self.wait(lambda: False, "projection counters: refused")

    def test_what_a_process_says_is_read(self):
        body = json.dumps({"ready": False, "notReady": [{"name": "relay", "reason": "behind"}], "parts": []}).encode()

        class Answers(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.send_response(503 if self.path == "/readyz" else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_address[1]}"
            self.assertEqual(probes.not_ready(f"{url}/readyz"), "relay: behind")
            self.assertEqual(probes.not_ready(f"{url}/livez"), "")
            server.shutdown()
        self.assertEqual(probes.not_ready(f"{url}/readyz"), "")


if __name__ == "__main__":
    unittest.main()
