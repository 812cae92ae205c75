// Speaks in a room without a pause until the connection ends, and prints `seq id` of every acknowledged message: for a
// test that kills the server meanwhile. Usage: node speak.js URL TOKEN ROOM

import { io } from "socket.io-client";

const [url, token, roomId] = process.argv.slice(2);
const socket = io(url, { auth: { token }, transports: ["websocket"], reconnection: false });
socket.on("disconnect", () => process.exit(0));
socket.on("connect_error", (error) => {
  console.error(error.message);
  process.exit(1);
});
socket.on("connect", async () => {
  await socket.emitWithAck("join_room", { roomId });
  const speak = async (voice) => {
    for (let i = 0; ; i++) {
      const ack = await socket.emitWithAck("send_message", { roomId, message: `${voice}: ${i}` });
      if (ack.ok) console.log(`${ack.seq} ${ack.id}`);
    }
  };
  for (let voice = 0; voice < 8; voice++) speak(voice);
});
