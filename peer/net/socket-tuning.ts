/**
 * What the kernel is asked for on the connections of a link. All of it is a hint: where the addon does not load, the
 * runtime shows no descriptor (Deno), or the kernel refuses, the connection works as it is.
 *
 * @module
 */
import type { Socket } from "node:net";
import { loadNative, type NativeAddon } from "../../native/index.ts";

/** Keeps its rate under loss that is not congestion: several times CUBIC's at 0.1 % and more. */
const CONGESTION_CONTROL = "bbr";
/**
 * What TCP holds that it has not sent: enough to keep sending while this process is busy for a moment, little enough
 * that what is written next is not behind megabytes.
 */
const UNSENT_BYTES_MAX = 1024 * 1024;
/** Holds what 1 Gbit/s brings in 60 ms; Linux gives a UDP socket 208 KiB, which a burst overflows. */
const UDP_BUFFER_BYTES = 8 * 1024 * 1024;

let addon: NativeAddon | null | undefined;

function native(): NativeAddon | null {
  if (addon !== undefined) return addon;
  try {
    addon = loadNative();
  } catch {
    // Peers cannot do without it and say so where they need it.
    addon = null;
  }
  return addon;
}

/** To be called once it is connected. */
export function tuneTcp(socket: Socket): void {
  const fd = descriptorOf(socket);
  if (fd === undefined) return;
  try {
    native()?.setCongestionControl(fd, CONGESTION_CONTROL);
    native()?.setUnsentBytesMax(fd, UNSENT_BYTES_MAX);
  } catch {
    // The descriptor is gone: so is the connection, which says so itself.
  }
}

/** Descriptors of UDP sockets that are there: what `raiseUdpBuffers` is to leave alone. */
export function udpSockets(): ReadonlySet<number> {
  return new Set("Deno" in globalThis ? [] : (native()?.datagramSockets() ?? []));
}

/** Raises the buffers of the UDP sockets that have come since: those of a QUIC library, which offers no way to. */
export function raiseUdpBuffers(before: ReadonlySet<number>): void {
  if ("Deno" in globalThis) return;
  for (const fd of native()?.datagramSockets() ?? []) {
    if (before.has(fd)) continue;
    native()?.setSocketBuffers(fd, { receive: UDP_BUFFER_BYTES, send: UDP_BUFFER_BYTES });
  }
}

/** Its handle is not part of any API, so what is not as expected is left alone. */
function descriptorOf(socket: object): number | undefined {
  if ("Deno" in globalThis) return undefined;
  const handle: unknown = Reflect.get(socket, "_handle");
  if (typeof handle !== "object" || handle === null) return undefined;
  const fd: unknown = Reflect.get(handle, "fd");
  return typeof fd === "number" && fd >= 0 ? fd : undefined;
}
