/**
 * What the probes found: everything that the table is made from.
 *
 * @module
 */
import type { FuseProbe, UffdProbe } from "../../native/index.ts";
import type { Discovered } from "../net/paths/discovery.ts";

export interface Problem {
  /** An error's code; `SKIPPED` if the probe had no ground to stand on. */
  readonly code: string;
  /** One line. */
  readonly message: string;
}

export type Probed<T> = { readonly value: T } | { readonly problem: Problem };

export interface Timed {
  readonly ms: number;
}

/** How the relay's certificate is known: by its hash, by the system's trust store, or not at all yet. */
export type Trust = "pinned" | "system" | "unknown";

export interface NetworkSnapshot {
  readonly url: string;
  readonly host: string;
  readonly port: number;
  /** The HTTP proxy that stands between, without credentials. */
  readonly proxy: string | undefined;
  readonly name: Probed<{ readonly ipv4: readonly string[]; readonly ipv6: readonly string[] }>;
  /** Of each family that the name has. */
  readonly tcp: Readonly<Partial<Record<4 | 6, Probed<Timed>>>>;
  /** `hash`: SHA-256 of the certificate in hexadecimal. */
  readonly tls: Probed<Timed & { readonly trust: Trust; readonly hash: string }>;
  readonly webSocket: Probed<Timed>;
  readonly webTransport: Probed<Timed>;
  /** How far this host's clock is ahead of the relay's, to about a second. */
  readonly clock: Probed<{ readonly aheadMs: number }>;
  /** Undefined if no API key is known. */
  readonly key: Probed<Timed> | undefined;
  readonly discovery: Probed<Discovered & { readonly ports: readonly [number, number] }>;
  /** Of the way to the relay. */
  readonly mtu: Probed<{ readonly device: string; readonly bytes: number }>;
}

export interface HostSnapshot {
  readonly nodeVersion: string;
  readonly kernel: string;
  readonly native: Probed<{ readonly uffd: UffdProbe; readonly fuse: FuseProbe }>;
  readonly hasFuseDevice: boolean;
  readonly hasFusermount: boolean;
  readonly hasNbd: boolean;
  readonly hasLoop: boolean;
  /** The WebTransport library that was taken, or why none. */
  readonly webTransport: { readonly name: string } | { readonly unavailable: string };
  readonly hasBufferutil: boolean;
  /** Soft limits of this process; Infinity for none, undefined if they cannot be told. */
  readonly openFilesMax: number | undefined;
  readonly lockedBytesMax: number | undefined;
  /** Bytes; undefined where the kernel does not show them, as in a container. */
  readonly receiveBytesDefault: number | undefined;
  readonly receiveBytesMax: number | undefined;
  readonly sendBytesMax: number | undefined;
  readonly tcpSendBytesMax: number | undefined;
  readonly congestionControls: readonly string[];
  /** Where sessions are kept. */
  readonly state: Probed<{ readonly directory: string; readonly freeBytes: number }>;
}

export interface DoctorSnapshot {
  readonly host: HostSnapshot;
  /** Undefined if no relay was named and none is configured. */
  readonly network: NetworkSnapshot | undefined;
}
