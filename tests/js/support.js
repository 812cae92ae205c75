// What the tests share: people with tokens, clients, and waiting for what must come.
//
// BASE_URL is the server (default http://127.0.0.1:8080). People sign up through it. With PLAIN_TOKENS=1 they do not:
// that is for `cargo run -p socialhub-chat --example chat_server`, whose tokens are `id:name`.

import { randomUUID } from "node:crypto";
import { io } from "socket.io-client";

export const BASE_URL = process.env.BASE_URL ?? "http://127.0.0.1:8080";
const PLAIN_TOKENS = process.env.PLAIN_TOKENS === "1";
const PATIENCE = 60_000;

const open = new Set();
/** Timers of what is waited for: left behind, they keep the process for as long as they would have waited. */
const waiting = new Set();

/** A new person: `{ id, username, token }`. */
export async function person(name) {
  const username = `${name}_${randomUUID().slice(0, 8)}`;
  if (PLAIN_TOKENS) {
    const id = randomUUID();
    return { id, username, token: `${id}:${username}` };
  }
  const response = await fetch(`${BASE_URL}/auth/signup`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name, username, email: `${username}@example.com`, password: "correct horse" }),
  });
  if (response.status !== 201) throw new Error(`sign-up answered ${response.status}: ${await response.text()}`);
  const { token, user } = await response.json();
  return { id: user.id, username, token };
}

/** A client that is not connected yet. It keeps every event it gets in `seen`. */
export function client(options = {}) {
  const socket = io(BASE_URL, { transports: ["websocket"], forceNew: true, reconnection: false, ...options });
  socket.seen = [];
  socket.onAny((event, payload) => socket.seen.push({ event, payload }));
  open.add(socket);
  return socket;
}

/** A connected client of a person. */
export async function connected(who, options = {}) {
  const socket = client({ auth: { token: who.token }, ...options });
  await event(socket, "connect");
  return socket;
}

/** A connected client that has joined a room and has its history. */
export async function joined(who, roomId, options = {}) {
  const socket = await connected(who, options);
  await join(socket, roomId);
  return socket;
}

/** Joins a room; `{ ack, history }`. */
export async function join(socket, roomId, more = {}) {
  const history = event(socket, "message_history");
  const ack = await ask(socket, "join_room", { roomId, ...more });
  if (!ack.ok) {
    history.catch(() => {});
    return { ack };
  }
  return { ack, history: await history };
}

/** Emits and waits for the acknowledgement. */
export function ask(socket, name, ...payload) {
  return socket.timeout(PATIENCE).emitWithAck(name, ...payload);
}

/** The next event of a name that satisfies a condition. */
export function event(socket, name, condition = () => true) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => done(reject, new Error(`no ${name} within ${PATIENCE} ms`)), PATIENCE);
    waiting.add(timer);
    const listener = (payload) => condition(payload) && done(resolve, payload);
    function done(settle, value) {
      clearTimeout(timer);
      waiting.delete(timer);
      socket.off(name, listener);
      settle(value);
    }
    socket.on(name, listener);
  });
}

/** Waits until so many `new_message` have come, and returns all there are. */
export async function messages(socket, count) {
  const all = () => socket.seen.filter((one) => one.event === "new_message").map((one) => one.payload);
  while (all().length < count) await event(socket, "new_message");
  return all();
}

/** A room's name nobody else has. */
export function room() {
  return `room-${randomUUID()}`;
}

/** The direct room of two people. */
export function directRoom(a, b) {
  return `dm:${[a.id, b.id].sort().join(":")}`;
}

/** A request of the REST side. */
export function get(path, who) {
  const headers = who ? { authorization: `Bearer ${who.token}` } : {};
  return fetch(`${BASE_URL}${path}`, { headers });
}

/** Closes every client of the test, and ends what is still waited for: nobody looks at that any more. */
export function closeAll() {
  for (const socket of open) socket.disconnect();
  open.clear();
  for (const timer of waiting) clearTimeout(timer);
  waiting.clear();
}
