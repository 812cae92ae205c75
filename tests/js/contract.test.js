// What chat really sends and takes, held against the AsyncAPI document (docs/contract/asyncapi.json).

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { afterEach, test } from "node:test";
import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { ask, closeAll, connected, event, join, messages, person, room } from "./support.js";

const file = new URL("../../docs/contract/asyncapi.json", import.meta.url);
const document = JSON.parse(readFileSync(file, "utf8"));
const schemas = JSON.parse(
  JSON.stringify(document.components.schemas).replaceAll("#/components/schemas/", "#/$defs/"),
);
const ajv = addFormats(new Ajv({ allowUnionTypes: true }));

afterEach(closeAll);

/** Closes every object: a field that the document does not name is a fault of this test. */
function closed(schema) {
  if (typeof schema !== "object" || schema === null) return schema;
  if (Array.isArray(schema)) return schema.map(closed);
  const copy = Object.fromEntries(Object.entries(schema).map(([name, part]) => [name, closed(part)]));
  return copy.type === "object" && copy.properties ? { ...copy, additionalProperties: false } : copy;
}

const validators = new Map();

/** A message of the chat channel, by its name there. */
function validator(message, strict = true) {
  const key = `${message} ${strict}`;
  if (!validators.has(key)) {
    const payload = document.components.messages[message].payload.$ref.split("/").at(-1);
    const $defs = strict ? closed(schemas) : schemas;
    validators.set(key, ajv.compile({ $ref: `#/$defs/${payload}`, $defs }));
  }
  return validators.get(key);
}

function assertValid(message, payload) {
  const valid = validator(message);
  assert.ok(valid(payload), `${message}: ${JSON.stringify(payload)}: ${ajv.errorsText(valid.errors)}`);
}

/** What the service says by itself, event to message. */
const told = Object.fromEntries(
  Object.values(document.operations)
    .filter(({ action, channel }) => action === "send" && channel.$ref === "#/channels/chat")
    .map(({ messages: [{ $ref }] }) => $ref.split("/").at(-1))
    .map((message) => [document.components.messages[message].name, message]),
);

/** The client's own events: operation to its event, its message and that of its good answer. */
function asked(operation) {
  const { messages: [{ $ref }], reply } = document.operations[operation];
  const message = $ref.split("/").at(-1);
  const [answer] = reply.messages.map((one) => one.$ref.split("/").at(-1));
  return { message, answer, name: document.components.messages[message].name };
}

test("every event and every acknowledgement is as the document says", async () => {
  const [ann, bob] = [await person("ann"), await person("bob")];
  const roomId = room();
  const [a, b] = [await connected(ann), await connected(bob)];
  const call = async (socket, operation, payload) => {
    const { name, message, answer } = asked(operation);
    assertValid(message, payload);
    assertValid(answer, await ask(socket, name, payload));
  };
  await call(a, "joinRoom", { roomId });
  await call(a, "sendMessage", { roomId, message: "first", clientId: "1" });
  await call(b, "joinRoom", { roomId, after: 0 });
  await call(b, "sendMessage", { roomId, message: "second" });
  await messages(a, 2);
  const typing = event(a, "typing");
  await call(b, "startTyping", { roomId });
  await typing;
  const left = [event(a, "user_left"), event(a, "presence", (presence) => presence.users.length === 1)];
  await call(b, "leaveRoom", { roomId });
  await Promise.all(left);

  const seen = [...a.seen, ...b.seen];
  for (const { event: name, payload } of seen) {
    assert.ok(told[name], `${name} is not in the document`);
    assertValid(told[name], payload);
  }
  const names = new Set(seen.map((one) => one.event));
  for (const name of Object.keys(told)) assert.ok(names.has(name), `${name} did not come`);
});

test("the service refuses what the document refuses, and takes what it takes", async () => {
  const ann = await person("ann");
  const socket = await connected(ann);
  const roomId = room();
  await join(socket, roomId);
  const cases = {
    joinRoom: [
      {}, { roomId: "" }, { roomId: 5 }, { roomId: "a b" }, { roomId: "x".repeat(100) }, { roomId: "x".repeat(101) },
      { roomId, after: -1 }, { roomId, after: 1.5 }, { roomId, after: "1" }, { roomId, after: null },
      { roomId, after: 2 ** 53 - 1 }, { roomId, after: 2 ** 53 },
    ],
    sendMessage: [
      { roomId }, { roomId, message: "" }, { roomId, message: 1 }, { roomId, message: "é".repeat(4000) },
      { roomId, message: "é".repeat(4001) }, { roomId, message: "x", clientId: "" },
      { roomId, message: "x", clientId: null }, { roomId, message: "x", clientId: randomUUID() },
      { roomId, message: "x", clientId: "c".repeat(100) }, { roomId, message: "x", clientId: "c".repeat(101) },
    ],
    startTyping: [{ roomId }, {}, { roomId: null }],
  };
  for (const [operation, payloads] of Object.entries(cases)) {
    const { name, message, answer } = asked(operation);
    for (const payload of payloads) {
      const ack = await ask(socket, name, payload);
      const good = validator(message, false)(payload);
      assert.equal(ack.ok, good, `${name} ${JSON.stringify(payload)}: ${JSON.stringify(ack)}`);
      assertValid(good ? answer : "refused", ack);
    }
  }
});
