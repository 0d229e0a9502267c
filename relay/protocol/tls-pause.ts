/**
 * Backpressure of TLS sockets on Deno.
 *
 * @module
 */

/**
 * On Deno 2.9 a TLS socket that is not read goes on reading the TCP connection below and keeps what it
 * decrypts, without bound: `readStop` of its handle does not reach the handle below. This passes it on.
 * Elsewhere it does nothing. To be called once TLS is up, before the first byte is read.
 *
 * @param socket A `TLSSocket`; its handle is not part of any API, so what is not as expected is left alone.
 */
export function passReadStopBelowTls(socket: object): void {
  if (!("Deno" in globalThis)) return;
  const handle = readHandle(socket, "_handle");
  const below = handle === null ? null : readHandle(handle, "_parent");
  if (handle === null || below === null) return;
  const stop = handle.readStop.bind(handle);
  const start = handle.readStart.bind(handle);
  handle.readStop = () => {
    below.readStop();
    return stop();
  };
  handle.readStart = () => {
    below.readStart();
    return start();
  };
}

interface ReadHandle {
  readStop: () => unknown;
  readStart: () => unknown;
}

function readHandle(owner: object, name: string): ReadHandle | null {
  const handle: unknown = Reflect.get(owner, name);
  return isReadHandle(handle) ? handle : null;
}

function isReadHandle(handle: unknown): handle is ReadHandle {
  return (
    typeof handle === "object" &&
    handle !== null &&
    typeof Reflect.get(handle, "readStop") === "function" &&
    typeof Reflect.get(handle, "readStart") === "function"
  );
}
