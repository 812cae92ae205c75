// Talks in a room and stays there whatever happens: connects again, joins with `after`, and says what was not
// acknowledged again under the same `clientId`. Prints `shown seq id` of every message in the order it is shown, and
// `said seq id` of every one of its own that was acknowledged. Says nothing more once its input has ended.
// Usage: node talk.js URL TOKEN ROOM

import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import { io } from "socket.io-client";

const [url, token, roomId] = process.argv.slice(2);
const me = randomUUID();
const socket = io(url, { auth: { token }, transports: ["websocket"], reconnectionDelay: 100, reconnectionDelayMax: 500 });
let seen = 0;
let inRoom = false;
let silent = false;
process.stdin.on("end", () => (silent = true)).resume();

function show({ seq, id }) {
  console.log(`shown ${seq} ${id}`);
  seen = seq;
}

socket.on("new_message", show);
socket.on("message_history", (history) => history.forEach(show));
socket.on("disconnect", (reason) => {
  inRoom = false;
  if (reason === "io server disconnect") socket.connect();
});
socket.on("connect_error", async () => {
  await pause(100);
  // After a refusal the library does not try again by itself.
  if (!socket.active) socket.connect();
});
socket.on("connect", async () => {
  while (socket.connected && !inRoom) {
    try {
      const ack = await socket.timeout(10_000).emitWithAck("join_room", { roomId, after: seen });
      if (ack.ok && !ack.recovered) throw new Error("what was missed is more than is read at once");
      inRoom = ack.ok;
    } catch (error) {
      console.error(error.message);
    }
    if (!inRoom) await pause(200);
  }
});

for (let i = 0; !silent; ) {
  await pause(30);
  if (!inRoom) continue;
  try {
    const message = { roomId, message: `${i}`, clientId: `${me}-${i}` };
    const ack = await socket.timeout(10_000).emitWithAck("send_message", message);
    if (!ack.ok) continue;
    console.log(`said ${ack.seq} ${ack.id}`);
    i++;
  } catch {
    // No answer: whether it was stored will be known when it is said again.
  }
}
