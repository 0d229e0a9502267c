/**
 * Records and setups as JSON, and back, with every field looked at.
 *
 * @module
 */
import { fromBase64Url, toBase64Url } from "../../relay/protocol/bytes.ts";
import { decodeTicket, encodeTicket, type Ticket } from "../../relay/protocol/ticket.ts";
import { decodeMessage, encodeMessage, type FinalizedMessage } from "../migration/messages.ts";
import { PeerIdentity } from "../net/peer-identity.ts";
import { LEECHER_PHASES, SEEDER_PHASES, type LeecherRecord, type SeederRecord } from "./journal.ts";

/** What does not change while a session lasts. */
export interface Setup {
  readonly ticket: Ticket;
  readonly identity: PeerIdentity;
  /** The key of the chunk hashes, at a seeder. */
  readonly hashKey?: Uint8Array;
  /** The command's own arguments, without the ticket. */
  readonly argv: readonly string[];
  /** In which directory they are to be understood. */
  readonly cwd: string;
  /** Milliseconds since the epoch. */
  readonly createdAtMs: number;
}

export interface RecordCodec<R> {
  encode(record: R): unknown;
  /** @throws Error naming the field */
  decode(value: unknown): R;
}

export const seederCodec: RecordCodec<SeederRecord> = {
  encode: ({ phase, epochsReserved, finalized }) => ({
    phase,
    epochsReserved,
    ...(finalized === undefined ? {} : { finalized: message({ kind: "finalized", ...finalized }) }),
  }),
  decode: (value) => {
    const fields = record(value);
    const finalized = optional(fields, "finalized", finalizedField);
    return {
      phase: oneOf(fields, "phase", SEEDER_PHASES),
      epochsReserved: count(fields, "epochsReserved"),
      ...(finalized === undefined ? {} : { finalized: withoutKind(finalized) }),
    };
  },
};

export const leecherCodec: RecordCodec<LeecherRecord> = {
  encode: ({ phase, offer, finalized }) => ({
    phase,
    ...(offer === undefined ? {} : { offer: message(offer) }),
    ...(finalized === undefined ? {} : { finalized: message(finalized) }),
  }),
  decode: (value) => {
    const fields = record(value);
    const finalized = optional(fields, "finalized", finalizedField);
    const offer = optional(fields, "offer", (text) => {
      const decoded = decodeMessage(fromBase64Url(text));
      if (decoded?.kind !== "offer") throw new Error("offer is none");
      return decoded;
    });
    return {
      phase: oneOf(fields, "phase", LEECHER_PHASES),
      ...(offer === undefined ? {} : { offer }),
      ...(finalized === undefined ? {} : { finalized }),
    };
  },
};

export const setupCodec: RecordCodec<Setup> = {
  encode: ({ ticket, identity, hashKey, argv, cwd, createdAtMs }) => ({
    ticket: encodeTicket(ticket),
    privateKey: toBase64Url(identity.toPkcs8()),
    publicKey: toBase64Url(identity.publicKey),
    ...(hashKey === undefined ? {} : { hashKey: toBase64Url(hashKey) }),
    argv,
    cwd,
    createdAtMs,
  }),
  decode: (value) => {
    const fields = record(value);
    const argv: unknown = fields.get("argv");
    if (!Array.isArray(argv) || !argv.every((word) => typeof word === "string")) {
      throw new Error("argv is no list of texts");
    }
    const hashKey = optional(fields, "hashKey", fromBase64Url);
    return {
      ticket: decodeTicket(text(fields, "ticket")),
      identity: PeerIdentity.fromPkcs8(
        fromBase64Url(text(fields, "privateKey")),
        fromBase64Url(text(fields, "publicKey")),
      ),
      ...(hashKey === undefined ? {} : { hashKey }),
      argv,
      cwd: text(fields, "cwd"),
      createdAtMs: count(fields, "createdAtMs"),
    };
  },
};

type Fields = ReadonlyMap<string, unknown>;

function record(value: unknown): Fields {
  if (typeof value !== "object" || value === null) throw new Error("no record");
  return new Map(Object.entries(value));
}

function text(fields: Fields, name: string): string {
  const value = fields.get(name);
  if (typeof value !== "string") throw new Error(`no ${name}`);
  return value;
}

function count(fields: Fields, name: string): number {
  const value = fields.get(name);
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw new Error(`no ${name}`);
  }
  return value;
}

function oneOf<T extends string>(fields: Fields, name: string, values: readonly T[]): T {
  const value = fields.get(name);
  const found = values.find((candidate) => candidate === value);
  if (found === undefined) throw new Error(`no ${name}`);
  return found;
}

function optional<T>(fields: Fields, name: string, decode: (text: string) => T): T | undefined {
  return fields.has(name) ? decode(text(fields, name)) : undefined;
}

function message(value: Parameters<typeof encodeMessage>[0]): string {
  return toBase64Url(encodeMessage(value));
}

function finalizedField(encoded: string): FinalizedMessage {
  const decoded = decodeMessage(fromBase64Url(encoded));
  if (decoded?.kind !== "finalized") throw new Error("finalized is none");
  return decoded;
}

function withoutKind(finalized: FinalizedMessage): Omit<FinalizedMessage, "kind"> {
  const { epoch, suspendedForMs, dirtyChunks, root } = finalized;
  return { epoch, suspendedForMs, dirtyChunks, root };
}
