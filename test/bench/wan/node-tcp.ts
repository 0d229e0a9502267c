/**
 * The least that a program on Node does to move bytes: a sender, a pipe in the middle, a receiver.
 *
 *     node node-tcp.ts send HOST PORT BYTES | pipe PORT HOST PORT | receive PORT
 *
 * @module
 */
import { connect, createServer, type Socket } from "node:net";

const PIECE_BYTES = 64 * 1024;
const [verb, ...args] = process.argv.slice(2);
const ready = (): void => console.log(JSON.stringify({ event: "ready" }));

switch (verb) {
  case "receive":
    accept(Number(args[0]), (socket) => socket.resume().on("end", () => socket.end()));
    break;
  case "pipe":
    accept(Number(args[0]), (socket) => {
      const onward = connect(Number(args[2]), args[1]);
      socket.pipe(onward).pipe(socket);
    });
    break;
  case "send":
    send(args[0] ?? "", Number(args[1]), Number(args[2]));
    break;
  default:
    throw new Error(`no verb ${verb ?? ""}: send, pipe or receive`);
}

/** Serves one connection. */
function accept(port: number, serve: (socket: Socket) => void): void {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    server.close();
    serve(socket);
  });
  server.listen(port, "::", ready);
}

function send(host: string, port: number, bytes: number): void {
  const piece = Buffer.alloc(PIECE_BYTES, "memferry");
  let left = bytes;
  const socket = connect({ host, port, allowHalfOpen: true });
  const more = (): void => {
    while (left > 0) {
      const length = Math.min(left, PIECE_BYTES);
      left -= length;
      if (!socket.write(piece.subarray(0, length))) return;
    }
    socket.end();
  };
  // The end comes back when the receiver has all of it.
  socket.on("connect", more).on("drain", more).resume();
}
