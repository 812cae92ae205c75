import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import WebSocket from "ws";
import {
  BASE_URL, ask, client, closeAll, connected, directRoom, event, get, join, joined, messages, person, room,
} from "./support.js";

afterEach(closeAll);

for (const transport of ["websocket", "polling"]) {
  for (const [how, options] of Object.entries({
    "the Authorization header": (token) => ({ extraHeaders: { authorization: `Bearer ${token}` } }),
    "auth, with Bearer": (token) => ({ auth: { token: `Bearer ${token}` } }),
    "auth, without Bearer": (token) => ({ auth: { token } }),
  })) {
    test(`${transport}: a token by ${how} gets in and can chat`, async () => {
      const ann = await person("ann");
      const socket = client({ transports: [transport], ...options(ann.token) });
      await event(socket, "connect");
      const roomId = room();
      const { ack, history } = await join(socket, roomId);
      assert.deepEqual(ack, { ok: true, members: [{ userId: ann.id, username: ann.username }], recovered: true });
      assert.deepEqual(history, []);
      const sent = await ask(socket, "send_message", { roomId, message: "Hi!" });
      const [got] = await messages(socket, 1);
      assert.deepEqual(sent, { ok: true, ...got });
      assert.equal(got.seq, 1);
      assert.equal(got.roomId, roomId);
      assert.equal(got.userId, ann.id);
      assert.equal(got.username, ann.username);
      assert.equal(got.message, "Hi!");
      assert.ok(Number.isInteger(got.timestamp) && Math.abs(Date.now() - got.timestamp) < 60_000);
    });
  }

  for (const [what, options] of Object.entries({
    "no token": {},
    "a bad token": { auth: { token: "nonsense" } },
    "a token of the wrong type": { auth: { token: 5 } },
    "a gateway's header from outside": {
      extraHeaders: { "x-user-payload": '{"id":"00000000-0000-0000-0000-000000000001","username":"eve"}' },
    },
  })) {
    test(`${transport}: ${what} is a connect_error`, async () => {
      const socket = client({ transports: [transport], ...options });
      const error = await event(socket, "connect_error");
      assert.equal(error.message, "Unauthorized");
    });
  }
}

test("polling upgrades to websocket and misses nothing", async () => {
  const [ann, bob] = [await person("ann"), await person("bob")];
  const roomId = room();
  const a = await joined(ann, roomId, { transports: ["polling", "websocket"] });
  const b = await joined(bob, roomId);
  for (let i = 0; i < 50; i++) b.emit("send_message", { roomId, message: `${i}` });
  const got = await messages(a, 50);
  assert.deepEqual(got.map((m) => m.message), Array.from({ length: 50 }, (_, i) => `${i}`));
});

test("the browser client of the documentation works as printed", async () => {
  const ann = await person("ann");
  const socket = client({ auth: { token: `Bearer ${ann.token}` }, transports: ["websocket"] });
  socket.emit("join_room", { roomId: "room-123" });
  socket.emit("send_message", { roomId: "room-123", message: "Hello everyone!" });
  const data = await event(socket, "new_message", (m) => m.userId === ann.id);
  assert.equal(`${data.username}: ${data.message}`, `${ann.username}: Hello everyone!`);
});

test("everybody sees every message once, in the same order, whoever sends", async () => {
  const people = await Promise.all(["a", "b", "c", "d", "e"].map(person));
  const roomId = room();
  const sockets = await Promise.all(
    people.map((who, i) => joined(who, roomId, { transports: [i % 2 ? "polling" : "websocket"] })),
  );
  const each = 60;
  const acks = await Promise.all(
    sockets.flatMap((socket, s) =>
      Array.from({ length: each }, (_, i) => ask(socket, "send_message", { roomId, message: `${s}/${i}` })),
    ),
  );
  const total = each * sockets.length;
  const views = await Promise.all(sockets.map((socket) => messages(socket, total)));
  assert.deepEqual(views[0].map((m) => m.seq), Array.from({ length: total }, (_, i) => i + 1));
  for (const view of views) assert.deepEqual(view, views[0]);
  for (const [s] of sockets.entries()) {
    const own = views[0].filter((m) => m.userId === people[s].id).map((m) => m.message);
    assert.deepEqual(own, Array.from({ length: each }, (_, i) => `${s}/${i}`), "one sender's order holds");
  }
  const bySeq = [...acks].sort((x, y) => x.seq - y.seq);
  assert.deepEqual(bySeq, views[0].map((m) => ({ ok: true, ...m })));
});

test("joining in the middle of talk: history and live messages leave no hole and no repeat", async () => {
  const [ann, bob] = [await person("ann"), await person("bob")];
  const roomId = room();
  const speaker = await joined(ann, roomId);
  let talking = true;
  const talk = (async () => {
    let sent = 0;
    for (; talking && sent < 1_500; sent++) await ask(speaker, "send_message", { roomId, message: `${sent}` });
    return sent;
  })();
  const views = [];
  for (let i = 0; i < 20; i++) {
    const socket = await connected(bob);
    const { history } = await join(socket, roomId);
    await messages(socket, 5);
    views.push({ socket, history });
  }
  talking = false;
  const sent = await talk;
  for (const { socket, history } of views) {
    const start = history.length ? history[0].seq : 1;
    const live = await messages(socket, sent - (history.at(-1)?.seq ?? 0));
    const seqs = [...history, ...live].map((m) => m.seq);
    assert.deepEqual(seqs, Array.from({ length: sent - start + 1 }, (_, i) => start + i));
    assert.ok(history.length <= 50);
  }
});

test("history: the last 50, oldest first", async () => {
  const ann = await person("ann");
  const roomId = room();
  const socket = await joined(ann, roomId);
  for (let i = 1; i <= 70; i++) socket.emit("send_message", { roomId, message: `${i}` });
  await messages(socket, 70);
  const { history } = await join(await connected(ann), roomId);
  assert.deepEqual(history.map((m) => m.seq), Array.from({ length: 50 }, (_, i) => i + 21));
  assert.equal(history[0].message, "21");
});

test("recovery with after: all of it, or the newest thousand and recovered: false", async () => {
  const ann = await person("ann");
  const roomId = room();
  const speaker = await joined(ann, roomId);
  const send = async (from, to) => {
    for (let i = from; i <= to; i += 200) {
      const some = Array.from({ length: 200 }, (_, k) => ask(speaker, "send_message", { roomId, message: `${i + k}` }));
      assert.ok((await Promise.all(some)).every((ack) => ack.ok));
    }
  };
  const recover = async (after) => join(await connected(ann), roomId, { after });
  await send(1, 1_000);
  const all = await recover(0);
  assert.equal(all.ack.recovered, true);
  assert.deepEqual(all.history.map((m) => m.seq), Array.from({ length: 1_000 }, (_, i) => i + 1));
  const some = await recover(990);
  assert.equal(some.ack.recovered, true);
  assert.deepEqual(some.history.map((m) => m.seq), [991, 992, 993, 994, 995, 996, 997, 998, 999, 1000]);
  const none = await recover(1_000);
  assert.equal(none.ack.recovered, true);
  assert.deepEqual(none.history, []);
  await send(1_001, 1_200);
  const tooMuch = await recover(100);
  assert.equal(tooMuch.ack.recovered, false);
  assert.equal(tooMuch.history.length, 1_000);
  assert.equal(tooMuch.history.at(-1).seq, 1_200);
  const fromTheFuture = await recover(5_000);
  assert.equal(fromTheFuture.ack.recovered, false);
  assert.equal(fromTheFuture.history.at(-1).seq, 1_200);
});

test("the same clientId again: not sent twice, same acknowledgement", async () => {
  const [ann, bob] = [await person("ann"), await person("bob")];
  const roomId = room();
  const [a, b] = [await joined(ann, roomId), await joined(bob, roomId)];
  const said = { roomId, message: "once", clientId: "c-1" };
  const acks = await Promise.all([1, 2, 3].map(() => ask(a, "send_message", said)));
  acks.push(await ask(a, "send_message", said));
  const again = await joined(ann, roomId);
  acks.push(await ask(again, "send_message", said));
  for (const ack of acks) assert.deepEqual(ack, acks[0]);
  assert.equal(acks[0].ok, true);
  const other = await ask(b, "send_message", said);
  assert.notEqual(other.id, acks[0].id, "another person's clientId is their own");
  await ask(a, "send_message", { roomId, message: "end" });
  const got = await messages(b, 3);
  assert.deepEqual(got.map((m) => m.message), ["once", "once", "end"]);
});

test("joining, leaving, typing and presence are told to the others", async () => {
  const [ann, bob] = [await person("ann"), await person("bob")];
  const roomId = room();
  const sign = { roomId, userId: bob.id, username: bob.username };
  const a = await joined(ann, roomId);
  const b = await connected(bob);
  const came = event(a, "user_joined");
  const both = event(a, "presence", (p) => p.users.length === 2);
  const { ack } = await join(b, roomId);
  assert.deepEqual(await came, sign);
  assert.deepEqual(ack.members.map((m) => m.userId).sort(), [ann.id, bob.id].sort());
  const present = await both;
  assert.equal(present.roomId, roomId);
  assert.deepEqual(present.users.map((u) => u.username).sort(), [ann.username, bob.username].sort());

  const types = event(a, "typing");
  assert.deepEqual(await ask(b, "typing", { roomId }), { ok: true });
  assert.deepEqual(await types, sign);
  assert.ok(!b.seen.some((one) => one.event === "typing" || one.event === "user_joined"), "not to oneself");

  const left = event(a, "user_left");
  const alone = event(a, "presence", (p) => p.users.length === 1);
  assert.deepEqual(await ask(b, "leave_room", { roomId }), { ok: true });
  assert.deepEqual(await left, sign);
  await alone;
  const refused = await ask(b, "send_message", { roomId, message: "still here?" });
  assert.equal(refused.error.status, 403);

  await join(b, roomId);
  const gone = event(a, "user_left");
  b.disconnect();
  assert.deepEqual(await gone, sign);
});

test("a person with two sockets leaves with the last one", async () => {
  const [ann, bob] = [await person("ann"), await person("bob")];
  const roomId = room();
  const a = await joined(ann, roomId);
  const came = event(a, "user_joined");
  const first = await joined(bob, roomId);
  await came;
  const second = await joined(bob, roomId);
  await ask(first, "leave_room", { roomId });
  const left = event(a, "user_left");
  await ask(second, "leave_room", { roomId });
  await left;
  assert.equal(a.seen.filter((one) => one.event === "user_left").length, 1);
  assert.equal(a.seen.filter((one) => one.event === "user_joined").length, 1);
});

test("a message needs the room to be joined", async () => {
  const socket = await connected(await person("ann"));
  for (const name of ["send_message", "typing", "leave_room"]) {
    const ack = await ask(socket, name, { roomId: room(), message: "hi" });
    assert.equal(ack.ok, false);
    assert.equal(ack.error.status, 403, name);
  }
});

test("direct rooms admit only their two", async () => {
  const [ann, bob, eve] = await Promise.all(["ann", "bob", "eve"].map(person));
  const roomId = directRoom(ann, bob);
  const [a, b, e] = [await joined(ann, roomId), await joined(bob, roomId), await connected(eve)];
  assert.equal((await join(e, roomId)).ack.error.status, 403);
  const backwards = `dm:${roomId.slice(3).split(":").reverse().join(":")}`;
  for (const name of [backwards, "dm:", `dm:${ann.id}`, `dm:${ann.id}:${ann.id}`, roomId.toUpperCase().replace("DM", "dm")]) {
    assert.equal((await join(a, name)).ack.error.status, 403, name);
  }
  await ask(b, "send_message", { roomId, message: "psst" });
  assert.equal((await messages(a, 1))[0].message, "psst");
  assert.ok(!e.seen.some((one) => one.event === "new_message"));
  assert.equal((await get(`/chat/rooms/${roomId}/messages`, eve)).status, 403);
  assert.equal((await get(`/chat/rooms/${roomId}/messages`, ann)).status, 200);
});

test("malformed payloads are refused by name and harm nothing", async () => {
  const ann = await person("ann");
  const roomId = room();
  const socket = await joined(ann, roomId);
  const bad = [
    ["join_room"], ["join_room", null], ["join_room", 5], ["join_room", []], ["join_room", {}],
    ["join_room", { roomId: 5 }], ["join_room", { roomId: "" }], ["join_room", { roomId: "x".repeat(101) }],
    ["join_room", { roomId: "a b" }], ["join_room", { roomId: "a\u0000" }],
    ["join_room", { roomId, after: -1 }], ["join_room", { roomId, after: "7" }], ["join_room", { roomId, after: 1.5 }],
    ["send_message", { roomId }], ["send_message", { roomId, message: "" }], ["send_message", { roomId, message: {} }],
    ["send_message", { roomId, message: "x".repeat(4_001) }],
    ["send_message", { roomId, message: "x", clientId: 7 }], ["send_message", { roomId, message: "x", clientId: "" }],
    ["send_message", { roomId, message: "x", clientId: "y".repeat(101) }],
    ["send_message", "hi"], ["send_message", Buffer.from("hi")], ["leave_room", {}], ["typing", 1],
  ];
  for (const [name, ...payload] of bad) {
    const ack = await ask(socket, name, ...payload);
    assert.equal(ack.ok, false, `${name} ${JSON.stringify(payload)}`);
    assert.equal(ack.error.status, 400, `${name} ${JSON.stringify(payload)}`);
    assert.equal(typeof ack.error.error, "string");
    assert.equal(typeof ack.error.detail, "string");
  }
  const unknown = await ask(socket, "no_such_event", {});
  assert.equal(unknown.error.status, 404);
  const longest = await ask(socket, "send_message", { roomId, message: "é".repeat(4_000) });
  assert.equal(longest.ok, true);
  assert.equal(longest.seq, 1);
});

test("text of every kind comes back as it was", async () => {
  const socket = await joined(await person("ann"), room());
  const roomId = room();
  await join(socket, roomId);
  const texts = ["\u0000", "\"\\/\b\f\n\r\t", "👩‍👩‍👧‍👦", "\u2028\u2029", "<script>", "4\u001e2[\"x\"]", " ", "é\u0301"];
  for (const message of texts) {
    assert.equal((await ask(socket, "send_message", { roomId, message })).message, message);
  }
  assert.deepEqual((await messages(socket, texts.length)).map((m) => m.message), texts);
});

test("raw nonsense closes that socket and no other", async () => {
  const ann = await person("ann");
  const witness = await joined(ann, room());
  const url = `${BASE_URL.replace(/^http/, "ws")}/socket.io/?EIO=4&transport=websocket`;
  const headers = { authorization: `Bearer ${ann.token}` };
  const nonsense = [
    "4", "42", "42[", "42{}", "42[]", "42[5]", "9", "hello", "45x", "459999-[\"a\"]", `42["a"${"[".repeat(5_000)}`,
    `42["send_message",{"roomId":"a","message":"${"x".repeat(100_000)}"}]`, "\u0000", "1",
    Buffer.alloc(10), "49/nowhere,", "43999[]",
  ];
  for (const data of nonsense) {
    const raw = new WebSocket(url, { headers });
    const closed = new Promise((resolve) => raw.on("close", resolve));
    raw.on("error", () => {});
    await new Promise((resolve) => raw.once("message", resolve));
    raw.send("40");
    await new Promise((resolve) => raw.once("message", resolve));
    raw.send(data);
    raw.send("1");
    await closed;
  }
  assert.equal((await ask(witness, "typing", { roomId: "nowhere" })).error.status, 403);
});

test("engine.io requests that make no sense are 4xx", async () => {
  const paths = [
    "", "?EIO=4", "?EIO=4&transport=pigeon", "?EIO=9&transport=polling", "?EIO=4&transport=websocket",
    "?EIO=4&transport=polling&sid=unknown", "?EIO=3&transport=polling",
  ];
  for (const path of paths) {
    const { status } = await fetch(`${BASE_URL}/socket.io/${path}`);
    assert.ok(status >= 400 && status < 500, `${path}: ${status}`);
  }
  for (const method of ["POST", "PUT", "DELETE"]) {
    const { status } = await fetch(`${BASE_URL}/socket.io/?EIO=4&transport=polling`, { method });
    assert.ok(status >= 400 && status < 500, `${method}: ${status}`);
  }
  const opened = await (await fetch(`${BASE_URL}/socket.io/?EIO=4&transport=polling`)).text();
  const { sid, maxPayload } = JSON.parse(opened.slice(1));
  const url = `${BASE_URL}/socket.io/?EIO=4&transport=polling&sid=${sid}`;
  const tooBig = await fetch(url, { method: "POST", body: `4${"x".repeat(maxPayload + 1)}` });
  assert.ok(tooBig.status >= 400 && tooBig.status < 500, `${tooBig.status}`);
});

test("a flood is refused with 429, then disconnected; others go on", async () => {
  const [ann, eve] = [await person("ann"), await person("eve")];
  const roomId = room();
  const [a, e] = [await joined(ann, roomId), await joined(eve, roomId)];
  // Each answer of these is waited for: who only pours reads nothing until the end, and may find the way closed then. A room's
  // history is dear: however slow the machine is, they ask for more of them than they may.
  const refused = async () => {
    const asked = Array.from({ length: 500 }, () => ask(e, "join_room", { roomId }));
    return (await Promise.all(asked)).find((answer) => answer.error);
  };
  let refusal;
  while (!refusal) refusal = await refused();
  assert.equal(refusal.error.status, 429);
  const ended = event(e, "disconnect");
  let sent = 0;
  const pour = () => {
    if (!e.connected || sent > 200_000) return;
    for (let i = 0; i < 500; i++, sent++) e.emit("join_room", { roomId }, () => {});
    setImmediate(pour);
  };
  pour();
  // The server says goodbye and closes; a client busy with its own flood may see the closing first.
  assert.match(await ended, /^(io server disconnect|transport close)$/);
  assert.equal((await ask(a, "send_message", { roomId, message: "peace" })).ok, true);
});

test("too many rooms are refused", async () => {
  const socket = await connected(await person("ann"));
  const acks = await Promise.all(Array.from({ length: 110 }, () => ask(socket, "join_room", { roomId: room() })));
  assert.equal(acks.filter((ack) => ack.ok).length, 100);
  assert.ok(acks.slice(100).every((ack) => ack.error.status === 429));
});

test("history over REST: pages both ways, problems", async () => {
  const ann = await person("ann");
  const roomId = room();
  const socket = await joined(ann, roomId);
  for (let i = 1; i <= 45; i++) socket.emit("send_message", { roomId, message: `${i}` });
  await messages(socket, 45);
  for (const base of ["/chat", "/api/v1/chat"]) {
    const path = `${base}/rooms/${roomId}/messages`;
    const read = async (query) => {
      const response = await get(`${path}${query}`, ann);
      assert.equal(response.status, 200, query);
      const body = await response.json();
      return { seqs: body.messages.map((m) => m.seq), next: body.nextCursor, link: response.headers.get("link") };
    };
    const newest = await read("");
    assert.deepEqual(newest.seqs, Array.from({ length: 20 }, (_, i) => i + 26));
    assert.ok(newest.link.includes('rel="next"'));
    const older = await read(`?cursor=${newest.next}`);
    assert.deepEqual(older.seqs, Array.from({ length: 20 }, (_, i) => i + 6));
    const oldest = await read(`?cursor=${older.next}`);
    assert.deepEqual(oldest.seqs, [1, 2, 3, 4, 5]);
    assert.equal(oldest.next, null);
    assert.deepEqual((await read("?before=4&limit=2")).seqs, [2, 3]);
    const after = await read("?after=40&limit=3");
    assert.deepEqual(after.seqs, [41, 42, 43]);
    assert.deepEqual((await read(`?cursor=${after.next}`)).seqs, [44, 45]);
    assert.deepEqual((await read("?after=45")).seqs, []);

    for (const query of ["?limit=0", "?limit=101", "?limit=x", "?before=x", "?after=-1", "?before=1&after=1", "?cursor=zz"]) {
      const response = await get(`${path}${query}`, ann);
      assert.equal(response.status, 400, query);
      assert.match(response.headers.get("content-type"), /^application\/problem\+json/);
      const problem = await response.json();
      assert.ok(problem.errors.length === 1 && problem.errors[0].field, query);
    }
    const nobody = await get(path);
    assert.equal(nobody.status, 401);
    assert.equal((await nobody.json()).error, "Unauthorized");
  }
  assert.equal((await get("/chat/rooms/%FF/messages", ann)).status, 400);
  assert.equal((await get("/chat/rooms/a%20b/messages", ann)).status, 400);
  assert.deepEqual((await (await get(`/chat/rooms/${room()}/messages`, ann)).json()).messages, []);
});
