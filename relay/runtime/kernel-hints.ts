/**
 * Settings of this host's kernel that make a relay slow over distance, and what to type about them.
 *
 * The relay cannot change them itself: it has no addon, and a QUIC library's socket is not its own.
 *
 * @module
 */
import { readFileSync } from "node:fs";

/** Holds what 1 Gbit/s brings in 30 ms; Linux gives 208 KiB. */
const UDP_BUFFER_BYTES_MIN = 4 * 1024 * 1024;

export interface KernelHint {
  readonly setting: string;
  readonly is: string;
  readonly why: string;
  readonly cure: string;
}

/** @param read The value of a setting; `undefined` where it cannot be read. Default: `/proc/sys`. */
export function kernelHints(
  { webTransport }: { readonly webTransport: boolean },
  read: (setting: string) => string | undefined = readSetting,
): KernelHint[] {
  const hints: KernelHint[] = [];
  const congestion = read("net.ipv4.tcp_congestion_control");
  if (congestion !== undefined && congestion !== "bbr") {
    hints.push({
      setting: "net.ipv4.tcp_congestion_control",
      is: congestion,
      why: "what the relay sends slows down at every lost packet",
      cure: "sysctl -w net.ipv4.tcp_congestion_control=bbr",
    });
  }
  const buffer = Number(read("net.core.rmem_default"));
  if (webTransport && buffer < UDP_BUFFER_BYTES_MIN) {
    hints.push({
      setting: "net.core.rmem_default",
      is: `${buffer}`,
      why: "bursts overflow WebTransport's socket, and it slows down",
      cure: `sysctl -w net.core.rmem_default=${UDP_BUFFER_BYTES_MIN} net.core.wmem_default=${UDP_BUFFER_BYTES_MIN}`,
    });
  }
  return hints;
}

function readSetting(setting: string): string | undefined {
  // Deno may have no right to read there, and would ask on the terminal.
  if ("Deno" in globalThis) return undefined;
  try {
    return readFileSync(`/proc/sys/${setting.replaceAll(".", "/")}`, "utf8").trim();
  } catch {
    return undefined;
  }
}
