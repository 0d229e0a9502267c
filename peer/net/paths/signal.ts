/**
 * What the two peers tell each other through the relay to find a direct path, sealed with keys that come from the
 * ticket's secret: the relay sees that there are signals, and nothing in them.
 *
 * Each is `12 nonce`, then AES-256-GCM of: u8 kind, 16 attempt, and by kind `16 nonce`, u8 count, candidates
 * (u8 kind of candidate, u8 family 4 or 6, address, u16 port), or `text reason`.
 *
 * @module
 */
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";
import { ByteReader, ByteWriter } from "../../../relay/protocol/bytes.ts";
import { formatIpAddress, parseIpAddress } from "../../../relay/protocol/ip-address.ts";
import type { Role } from "../../../relay/protocol/ids.ts";
import { CANDIDATE_KINDS, type Candidate } from "./candidate.ts";
import { CANDIDATES_MAX } from "./limits.ts";

export const NONCE_BYTES = 16;
const SEAL_NONCE_BYTES = 12;
const TAG_BYTES = 16;
const REASON_BYTES_MAX = 200;

const KINDS = ["offer", "answer", "refuse", "fallback"] as const;

export type Signal =
  /** The leecher wants to try; `startedAtMs` orders its attempts, also over its restarts. */
  | {
      readonly kind: "offer";
      readonly attempt: Uint8Array;
      readonly startedAtMs: number;
      readonly candidates: readonly Candidate[];
    }
  | {
      readonly kind: "answer";
      readonly attempt: Uint8Array;
      readonly nonce: Uint8Array;
      readonly candidates: readonly Candidate[];
    }
  /** The seeder does not want, or cannot. */
  | { readonly kind: "refuse"; readonly attempt: Uint8Array; readonly reason: string }
  /** The direct path of this attempt is dead: to the other side, which may not have seen it yet. */
  | { readonly kind: "fallback"; readonly attempt: Uint8Array; readonly reason: string };

export interface Secrets {
  readonly sessionId: Uint8Array;
  /** The ticket's secret. */
  readonly secret: Uint8Array;
}

/** Seals for the other side and opens what it sealed. */
export class SignalSealer {
  readonly #sealKey: Uint8Array;
  readonly #openKey: Uint8Array;

  constructor(role: Role, { sessionId, secret }: Secrets) {
    const keyOf = (from: Role): Uint8Array =>
      new Uint8Array(hkdfSync("sha256", secret, sessionId, `memferry signal 1 ${from}`, 32));
    this.#sealKey = keyOf(role);
    this.#openKey = keyOf(role === "seeder" ? "leecher" : "seeder");
  }

  seal(signal: Signal): Uint8Array {
    const nonce = randomBytes(SEAL_NONCE_BYTES);
    const cipher = createCipheriv("aes-256-gcm", this.#sealKey, nonce);
    const sealed = Buffer.concat([cipher.update(encode(signal)), cipher.final()]);
    return new ByteWriter().bytes(nonce).bytes(sealed).bytes(cipher.getAuthTag()).finish();
  }

  /** `undefined` if it is not of the other peer, or makes no sense: whoever sent it is not told. */
  open(bytes: Uint8Array): Signal | undefined {
    if (bytes.length < SEAL_NONCE_BYTES + TAG_BYTES) return undefined;
    try {
      const decipher = createDecipheriv(
        "aes-256-gcm",
        this.#openKey,
        bytes.subarray(0, SEAL_NONCE_BYTES),
      );
      decipher.setAuthTag(bytes.subarray(bytes.length - TAG_BYTES));
      const sealed = bytes.subarray(SEAL_NONCE_BYTES, bytes.length - TAG_BYTES);
      return decode(new Uint8Array(Buffer.concat([decipher.update(sealed), decipher.final()])));
    } catch {
      return undefined;
    }
  }
}

/** Keys of one attempt, for both sides alike. */
export interface AttemptKeys {
  readonly probe: Uint8Array;
  readonly leecherToSeeder: Uint8Array;
  readonly seederToLeecher: Uint8Array;
  /** Tells this attempt's packets from others'. */
  readonly id: number;
}

export function attemptKeys(
  { sessionId, secret }: Secrets,
  attempt: Uint8Array,
  nonce: Uint8Array,
): AttemptKeys {
  const salt = new ByteWriter().bytes(sessionId).bytes(attempt).bytes(nonce).finish();
  const all = new Uint8Array(hkdfSync("sha256", secret, salt, "memferry direct 1", 100));
  return {
    probe: all.slice(0, 32),
    leecherToSeeder: all.slice(32, 64),
    seederToLeecher: all.slice(64, 96),
    id: new DataView(all.buffer, all.byteOffset + 96).getUint32(0),
  };
}

function encode(signal: Signal): Uint8Array {
  const writer = new ByteWriter().u8(KINDS.indexOf(signal.kind)).bytes(signal.attempt);
  switch (signal.kind) {
    case "offer":
      writer.u53(signal.startedAtMs);
      writeCandidates(writer, signal.candidates);
      break;
    case "answer":
      writer.bytes(signal.nonce);
      writeCandidates(writer, signal.candidates);
      break;
    default:
      writer.text(signal.reason.slice(0, REASON_BYTES_MAX / 4), REASON_BYTES_MAX);
  }
  return writer.finish();
}

/** @throws if it is malformed */
function decode(bytes: Uint8Array): Signal | undefined {
  const reader = new ByteReader(bytes);
  const kind = KINDS[reader.u8()];
  const attempt = reader.bytes(NONCE_BYTES).slice();
  // Of a later version.
  if (kind === undefined) return undefined;
  switch (kind) {
    case "offer": {
      const startedAtMs = reader.u53();
      const candidates = readCandidates(reader);
      reader.end();
      return { kind, attempt, startedAtMs, candidates };
    }
    case "answer": {
      const nonce = reader.bytes(NONCE_BYTES).slice();
      const candidates = readCandidates(reader);
      reader.end();
      return { kind, attempt, nonce, candidates };
    }
    default: {
      const reason = reader.text(REASON_BYTES_MAX);
      reader.end();
      return { kind, attempt, reason };
    }
  }
}

function writeCandidates(writer: ByteWriter, candidates: readonly Candidate[]): void {
  const some = candidates.flatMap(({ kind, address, port }) => {
    const bytes = parseIpAddress(address);
    return bytes === undefined ? [] : [{ kind, bytes, port }];
  });
  writer.u8(Math.min(some.length, CANDIDATES_MAX));
  for (const { kind, bytes, port } of some.slice(0, CANDIDATES_MAX)) {
    writer.u8(CANDIDATE_KINDS.indexOf(kind)).u8(bytes.length === 4 ? 4 : 6);
    writer.bytes(bytes).u16(port);
  }
}

function readCandidates(reader: ByteReader): Candidate[] {
  const count = reader.u8();
  if (count > CANDIDATES_MAX) throw new RangeError("too many candidates");
  return Array.from({ length: count }, () => {
    const kind = CANDIDATE_KINDS[reader.u8()];
    const family = reader.u8();
    if (kind === undefined || (family !== 4 && family !== 6)) throw new RangeError("candidate");
    const address = formatIpAddress(reader.bytes(family === 4 ? 4 : 16));
    const port = reader.u16();
    if (port === 0) throw new RangeError("port");
    return { kind, address, port };
  });
}
