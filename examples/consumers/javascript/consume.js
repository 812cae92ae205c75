// Reads SocialHub's topics and prints a line for each event, with nothing but the contract files.
//
// Where it is stands in a state file: after a stop it goes on from there, and says nothing twice; after a crash it may say
// the line again that it had not noted yet.

import { existsSync, readFileSync, readdirSync } from "node:fs";
import { open, rename } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { Kafka, logLevel } from "kafkajs";

const REMEMBERED = 10_000;

const { values: options } = parseArgs({
  options: {
    brokers: { type: "string", default: process.env.KAFKA_BROKERS ?? "127.0.0.1:9092" },
    contract: { type: "string", default: fileURLToPath(new URL("../../../docs/contract", import.meta.url)) },
    topics: { type: "string" },
    state: { type: "string", default: "consumer-state.json" },
    group: { type: "string", default: "example-javascript" },
    count: { type: "string" },
  },
});
const wanted = options.count === undefined ? Infinity : Number(options.count);

/** The topics, as the AsyncAPI document names them. */
function topicsOf(contract) {
  const document = JSON.parse(readFileSync(join(contract, "asyncapi.json"), "utf8"));
  return Object.values(document.channels).flatMap((channel) => channel.bindings?.kafka?.topic ?? []);
}

/** A validator for each version of each event: type to version to validator. */
function schemasOf(contract) {
  const ajv = addFormats(new Ajv({ allErrors: false }));
  const schemas = new Map();
  for (const file of readdirSync(join(contract, "schemas"))) {
    const [, type, version] = file.match(/^(.+)\.v(\d+)\.json$/) ?? [];
    if (!type) continue;
    const schema = JSON.parse(readFileSync(join(contract, "schemas", file), "utf8"));
    if (!schemas.has(type)) schemas.set(type, new Map());
    schemas.get(type).set(Number(version), ajv.compile(schema));
  }
  return schemas;
}

/** How far each partition was read, and which events were seen last. */
class State {
  constructor(path) {
    this.path = path;
    const kept = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : {};
    this.partitions = kept.partitions ?? {};
    // A set remembers the order of its members: the first one is the oldest.
    this.ids = new Set(kept.ids);
  }

  offset(topic, partition) {
    return this.partitions[`${topic}/${partition}`]?.offset;
  }

  position(topic, partition) {
    return this.partitions[`${topic}/${partition}`]?.position ?? 0;
  }

  passed(record, position, id) {
    this.partitions[`${record.topic}/${record.partition}`] = {
      offset: `${BigInt(record.message.offset) + 1n}`,
      position: Math.max(position, this.position(record.topic, record.partition)),
    };
    if (id === undefined) return;
    this.ids.add(id);
    if (this.ids.size > REMEMBERED) this.ids.delete(this.ids.values().next().value);
  }

  /** In one step: a crash leaves the old state or the new one. */
  async save() {
    const file = await open(`${this.path}.new`, "w");
    await file.writeFile(JSON.stringify({ partitions: this.partitions, ids: [...this.ids] }));
    await file.sync();
    await file.close();
    await rename(`${this.path}.new`, this.path);
  }
}

function note(record, text) {
  console.error(`${record.topic}/${record.partition}@${record.message.offset}: ${text}`);
}

/** The event of a record, if it keeps the contract. */
function read(record, headers, schemas) {
  if (headers["socialhub-undecodable"] !== undefined) {
    note(record, `passed over: the publisher could not read it: ${headers["socialhub-undecodable"]}`);
    return undefined;
  }
  const [type, version] = [headers.ce_type, Number(headers["socialhub-version"])];
  // Nothing is ever removed or retyped, so a newer version than our files know is read by the newest they know.
  const known = [...(schemas.get(type)?.keys() ?? [])].filter((one) => one <= version);
  if (known.length === 0) {
    note(record, `passed over: no schema of ${type} version ${version}`);
    return undefined;
  }
  let value;
  try {
    value = JSON.parse(record.message.value.toString());
  } catch (error) {
    note(record, `passed over: no JSON: ${error.message}`);
    return undefined;
  }
  const valid = schemas.get(type).get(Math.max(...known));
  if (!valid(value)) {
    const [fault] = valid.errors;
    note(record, `passed over: ${type} version ${version}: ${fault.instancePath} ${fault.message}`);
    return undefined;
  }
  return {
    position: Number(headers["socialhub-position"]),
    id: headers.ce_id,
    type,
    version,
    key: record.message.key.toString(),
    data: value.data,
  };
}

/** Prints the event of a record, unless it was seen before; whether it did. */
function handle(record, state, schemas) {
  const headers = Object.fromEntries(
    Object.entries(record.message.headers ?? {}).map(([name, value]) => [name, value.toString()]),
  );
  if (headers["socialhub-position"] === undefined) {
    note(record, "passed over: not a record of SocialHub");
    state.passed(record, 0);
    return false;
  }
  const [position, previous] = [Number(headers["socialhub-position"]), Number(headers["socialhub-prev"])];
  const reached = state.position(record.topic, record.partition);
  if (previous > reached) {
    note(record, `the records between positions ${reached} and ${position} are no longer on the topic`);
  }
  const repeated = position <= reached || state.ids.has(headers.ce_id);
  const event = repeated ? undefined : read(record, headers, schemas);
  if (event) console.log(JSON.stringify(event));
  state.passed(record, position, headers.ce_id);
  return event !== undefined;
}

const state = new State(options.state);
const schemas = schemasOf(options.contract);
const topics = options.topics?.split(",") ?? topicsOf(options.contract);
const kafka = new Kafka({
  clientId: "example-javascript",
  brokers: options.brokers.split(","),
  logLevel: logLevel.ERROR,
});
const consumer = kafka.consumer({ groupId: options.group, readUncommitted: false });

// The state file says where it is, not the group: nothing is committed there.
consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
  for (const [topic, partitions] of Object.entries(payload.memberAssignment)) {
    for (const partition of partitions) {
      const offset = state.offset(topic, partition);
      if (offset !== undefined) consumer.seek({ topic, partition, offset });
    }
  }
});

let printed = 0;
let finish;
const finished = new Promise((resolve) => (finish = resolve));
consumer.on(consumer.events.CRASH, ({ payload }) => {
  if (payload.restart) return;
  console.error(payload.error.message);
  process.exitCode = 1;
  finish();
});
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, finish);

await consumer.connect();
await consumer.subscribe({ topics, fromBeginning: true });
await consumer.run({
  autoCommit: false,
  eachMessage: async (record) => {
    if (printed >= wanted) return;
    printed += handle(record, state, schemas) ? 1 : 0;
    await state.save();
    if (printed >= wanted) finish();
  },
});
await finished;
await consumer.disconnect();
