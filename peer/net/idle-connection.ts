/**
 * A connection to the relay that is kept for later.
 *
 * A server ends a connection on which no request came soon, and one whose last request was long ago. So a request
 * is made, whose answer is of no interest.
 *
 * @module
 */
import type { TLSSocket } from "node:tls";
import { LINK_PATH, type RelayAddress } from "./address.ts";

const ANSWER_BYTES_MAX = 16 * 1024;
const ANSWER_DEADLINE_MS = 5_000;
const END_OF_HEADERS = "\r\n\r\n";

/** @returns Whether the connection may be used on. Nothing else may read or write meanwhile. */
export async function sayNothing(socket: TLSSocket, address: RelayAddress): Promise<boolean> {
  if (socket.destroyed || !socket.writable) return false;
  socket.write(`HEAD ${LINK_PATH} HTTP/1.1\r\nHost: ${address.text}\r\n\r\n`);
  const answer = await headersOf(socket);
  return answer !== undefined && !/^connection:\s*close/im.test(answer) && !socket.destroyed;
}

/** Up to the empty line; `undefined` if it does not come, or more than that. */
function headersOf(socket: TLSSocket): Promise<string | undefined> {
  return new Promise((resolve) => {
    let text = "";
    const finish = (answer: string | undefined): void => {
      clearTimeout(timer);
      socket.off("readable", onReadable);
      socket.off("close", onClose);
      resolve(answer);
    };
    const onClose = (): void => finish(undefined);
    const onReadable = (): void => {
      for (;;) {
        const piece: unknown = socket.read();
        if (!(piece instanceof Uint8Array)) break;
        text += Buffer.from(piece).toString("latin1");
      }
      if (text.endsWith(END_OF_HEADERS)) finish(text);
      else if (text.includes(END_OF_HEADERS) || text.length > ANSWER_BYTES_MAX) finish(undefined);
    };
    const timer = setTimeout(onClose, ANSWER_DEADLINE_MS);
    socket.on("readable", onReadable);
    socket.once("close", onClose);
  });
}
