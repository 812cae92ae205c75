"""Reads SocialHub's topics and prints a line for each event, with nothing but the contract files.

Where it is stands in a state file: after a stop it goes on from there, and says nothing twice; after a crash it may say
the line again that it had not noted yet.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from jsonschema import Draft202012Validator, FormatChecker

CONTRACT = Path(__file__).resolve().parents[3] / "docs" / "contract"
REMEMBERED = 10_000


def topics_of(contract: Path) -> list[str]:
    """The topics, as the AsyncAPI document names them."""
    document = json.loads((contract / "asyncapi.json").read_text())
    bindings = (channel.get("bindings", {}).get("kafka") for channel in document["channels"].values())
    return [binding["topic"] for binding in bindings if binding]


def schemas_of(contract: Path) -> dict[str, dict[int, Draft202012Validator]]:
    """A validator for each version of each event."""
    schemas: dict[str, dict[int, Draft202012Validator]] = {}
    for file in (contract / "schemas").glob("*.json"):
        event_type, version = file.stem.rsplit(".v", 1)
        validator = Draft202012Validator(json.loads(file.read_text()), format_checker=FormatChecker())
        schemas.setdefault(event_type, {})[int(version)] = validator
    return schemas


class State:
    """How far each partition was read, and which events were seen last."""

    def __init__(self, path: Path):
        self.path = path
        kept = json.loads(path.read_text()) if path.exists() else {}
        self.partitions = kept.get("partitions", {})
        # A dictionary remembers the order of its keys: the first one is the oldest.
        self.ids = dict.fromkeys(kept.get("ids", []))

    def offset(self, topic: str, partition: int) -> int:
        return self.partitions.get(f"{topic}/{partition}", {}).get("offset", OFFSET_BEGINNING)

    def position(self, message) -> int:
        return self.partitions.get(f"{message.topic()}/{message.partition()}", {}).get("position", 0)

    def passed(self, message, position: int, event_id: str | None) -> None:
        self.partitions[f"{message.topic()}/{message.partition()}"] = {
            "offset": message.offset() + 1,
            "position": max(position, self.position(message)),
        }
        if event_id is not None:
            self.ids[event_id] = None
            if len(self.ids) > REMEMBERED:
                del self.ids[next(iter(self.ids))]

    def save(self) -> None:
        """In one step: a crash leaves the old state or the new one."""
        beside = self.path.with_name(self.path.name + ".new")
        with open(beside, "w") as file:
            json.dump({"partitions": self.partitions, "ids": list(self.ids)}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)


def note(message, text: str) -> None:
    print(f"{message.topic()}/{message.partition()}@{message.offset()}: {text}", file=sys.stderr)


def read(message, headers: dict[str, str], schemas) -> dict | None:
    """The event of a record, if it keeps the contract."""
    if "socialhub-undecodable" in headers:
        note(message, f"passed over: the publisher could not read it: {headers['socialhub-undecodable']}")
        return None
    event_type, version = headers["ce_type"], int(headers["socialhub-version"])
    # Nothing is ever removed or retyped, so a newer version than our files know is read by the newest they know.
    known = [one for one in schemas.get(event_type, {}) if one <= version]
    if not known:
        note(message, f"passed over: no schema of {event_type} version {version}")
        return None
    try:
        value = json.loads(message.value())
    except ValueError as error:
        note(message, f"passed over: no JSON: {error}")
        return None
    for error in schemas[event_type][max(known)].iter_errors(value):
        note(message, f"passed over: {event_type} version {version}: {error.json_path}: {error.message}")
        return None
    return {
        "position": int(headers["socialhub-position"]),
        "id": headers["ce_id"],
        "type": event_type,
        "version": version,
        "key": message.key().decode(),
        "data": value["data"],
    }


def handle(message, state: State, schemas) -> bool:
    """Prints the event of a record, unless it was seen before; whether it did."""
    headers = {name: value.decode() for name, value in message.headers() or [] if value is not None}
    if "socialhub-position" not in headers:
        note(message, "passed over: not a record of SocialHub")
        state.passed(message, 0, None)
        return False
    position, previous = int(headers["socialhub-position"]), int(headers["socialhub-prev"])
    reached, event_id = state.position(message), headers["ce_id"]
    if previous > reached:
        note(message, f"the records between positions {reached} and {position} are no longer on the topic")
    repeated = position <= reached or event_id in state.ids
    event = None if repeated else read(message, headers, schemas)
    if event is not None:
        print(json.dumps(event, ensure_ascii=False), flush=True)
    state.passed(message, position, event_id)
    return event is not None


def assignment(consumer: Consumer, topics: list[str], state: State) -> list[TopicPartition]:
    partitions = []
    for topic in topics:
        found = consumer.list_topics(topic, timeout=30).topics[topic]
        if found.error:
            sys.exit(f"{topic}: {found.error}")
        partitions += [TopicPartition(topic, number, state.offset(topic, number)) for number in found.partitions]
    return partitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brokers", default=os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092"))
    parser.add_argument("--contract", type=Path, default=CONTRACT, help="the folder of the contract files")
    parser.add_argument("--topics", help="names, with commas; those of the contract unless given")
    parser.add_argument("--state", type=Path, default=Path("consumer-state.json"), help="where to keep how far it is")
    parser.add_argument("--count", type=int, help="stop after so many events")
    options = parser.parse_args()

    state, schemas = State(options.state), schemas_of(options.contract)
    topics = options.topics.split(",") if options.topics else topics_of(options.contract)
    consumer = Consumer(
        {
            "bootstrap.servers": options.brokers,
            # The state file says where it is, not a group. The library wants a name all the same.
            "group.id": "example-python",
            "enable.auto.commit": False,
            # What retention took before we came is reported by `handle`, and what is still there is read.
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.assign(assignment(consumer, topics, state))
    printed = 0
    try:
        while options.count is None or printed < options.count:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                raise KafkaException(message.error())
            printed += handle(message, state, schemas)
            state.save()
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
