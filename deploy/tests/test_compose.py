"""The subset of YAML that docker-compose.yml is written in."""

import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/native"))

from launcher import compose  # noqa: E402
from launcher.errors import StackError  # noqa: E402


class Parsing(unittest.TestCase):
    def test_maps_lists_quotes_and_comments(self):
        text = 'a:\n  b: "x # y"  # comment\n  c:\n    - 1:2\n    - z\nd: [ "p, q", r ]\ne:\n'
        self.assertEqual(compose.parse(text), {"a": {"b": "x # y", "c": ["1:2", "z"]}, "d": ["p, q", "r"], "e": None})

    def test_a_list_of_maps(self):
        text = "a:\n  - b: 1\n    c:\n      - d\n  - b: 2\n  - e/f:g\nh: 3\n"
        maps = [{"b": "1", "c": ["d"]}, {"b": "2"}, "e/f:g"]
        self.assertEqual(compose.parse(text), {"a": maps, "h": "3"})

    def test_what_a_merge_brings_is_overridden_by_what_stands_there(self):
        text = "x: &x\n  a: 1\n  b: 2\ny:\n  a: 3\n  <<: *x\nz: *x\n"
        self.assertEqual(compose.parse(text)["y"], {"a": "3", "b": "2"})
        self.assertEqual(compose.parse(text)["z"], {"a": "1", "b": "2"})

    def test_what_it_does_not_know_is_refused_with_its_line(self):
        for text, line in (
            ("a: |\n  x", 1),
            ("a: 1\nb: {c: 1}", 2),
            ("a: 1\n  b: 2", 2),
            ("a: *n", 1),
            ("a: 1\na: 2", 2),
        ):
            with self.subTest(text), self.assertRaisesRegex(StackError, f"line {line}:"):
                compose.parse(text)

    def test_variables(self):
        known = {"A": "1", "EMPTY": ""}
        cases = {
            "${A}": "1",
            "$A-": "1-",
            "${B:-d}": "d",
            "${EMPTY:-d}": "d",
            "${EMPTY-d}": "",
            "$$A": "$A",
            "${B:-a:b/c}": "a:b/c",
            "${B:-}": "",
        }
        for text, expected in cases.items():
            with self.subTest(text):
                self.assertEqual(compose.substitute(text, known), expected)
        with self.assertRaisesRegex(StackError, "B is not set: why"):
            compose.substitute("${B:?why}", known)
        self.assertEqual(compose.variables({"SMTP_URL": None, "x": ["${A:-b}", "$C"]}), {"SMTP_URL", "A", "C"})

    def test_the_real_file_reads_as_it_does_with_a_whole_parser(self):
        import yaml  # Only this test needs more than Python itself: tests/python/requirements.txt.

        text = (ROOT / "docker-compose.yml").read_text()

        def plain(value):
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, list):
                return [plain(item) for item in value]
            return value if value is None else str(value).lower() if isinstance(value, bool) else str(value)

        self.assertEqual(compose.parse(text), plain(yaml.safe_load(text)))


if __name__ == "__main__":
    unittest.main()
