// A server on Socket.IO 4, as its documentation says: node server.js [SOCKET_OF_THE_STORE].
//
// Who joins a room is told to the others in it, and gets the list of them by `fetchSockets`, which asks all servers.
// With the store it has the Redis adapter, on ioredis. Runs until it is killed.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { Redis } from "ioredis";
import { Server } from "socket.io";

const http = createServer();
const options = {};
if (process.argv[2]) {
  const publisher = new Redis({ path: process.argv[2] });
  options.adapter = createAdapter(publisher, publisher.duplicate());
}
const io = new Server(http, options);

io.on("connection", (socket) => {
  socket.data.user = socket.handshake.query.user;
  socket.on("join", async (room, answer) => {
    await socket.join(room);
    socket.to(room).emit("joined", socket.data.user);
    const members = await io.in(room).fetchSockets();
    answer(members.map((member) => member.data.user));
  });
  socket.on("publish", (room, data, answer) => {
    socket.to(room).emit("message", data);
    answer();
  });
  socket.on("disconnecting", () => {
    for (const room of socket.rooms) socket.to(room).emit("left", socket.data.user);
  });
});

http.listen(0, "127.0.0.1", 4096, () => console.log(`ready client=127.0.0.1:${http.address().port}`));
