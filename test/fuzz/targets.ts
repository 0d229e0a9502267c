/**
 * What is fuzzed: each decoder of bytes that come from outside, with what must hold whatever it is given.
 *
 * @module
 */
import { MigrationError, type MigrationErrorCode } from "../../peer/errors.ts";
import { decodeMessage, encodeMessage } from "../../peer/migration/messages.ts";
import { fromBase64Url, toBase64Url } from "../../relay/protocol/bytes.ts";
import { ProtocolError, type ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import {
  decodeFrame,
  encodeFrame,
  FRAME_HEADER_BYTES,
  type Frame,
} from "../../relay/protocol/frame.ts";
import {
  decodeSignedCertificates,
  encodeSignedCertificates,
} from "../../relay/protocol/relay-certificates.ts";
import { decodeTicket, encodeTicket, TICKET_PREFIX } from "../../relay/protocol/ticket.ts";
import { count } from "../fixtures/example.ts";
import { recordMessages } from "../fixtures/peer-recordings.ts";
import { recordFrames, recordTickets } from "../fixtures/relay-recordings.ts";
import { retainedBytes } from "./meter.ts";
import { mutate } from "./mutate.ts";
import type { CaseRandom } from "./random.ts";

/** How a case ended: `accepted`, `unknown`, or the code of a documented error. */
export type Verdict = string;

export interface Target {
  readonly name: string;
  /** Cases among a million. */
  readonly weight: number;
  /** @returns The bytes of a case. */
  make(random: CaseRandom): Uint8Array;
  /** @throws Violation, or what a decoder should not throw */
  check(input: Uint8Array, random: CaseRandom): Verdict | Promise<Verdict>;
}

/** Something that must hold does not. */
export class Violation extends Error {
  override readonly name = "Violation";
}

export function requireThat(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Violation(what);
}

/** The code of an error that is documented for a decoder; any other error is thrown on. */
export function documented(
  error: unknown,
  codes: readonly (ProtocolErrorCode | MigrationErrorCode)[],
): Verdict {
  if (error instanceof ProtocolError || error instanceof MigrationError) {
    requireThat(codes.includes(error.code), `undocumented code ${error.code}: ${error.message}`);
    return error.code;
  }
  throw error;
}

const frames = recordFrames().map(({ bytes }) => bytes);
const messages = recordMessages().map(({ bytes }) => bytes);
const tickets = recordTickets().map(({ bytes }) => bytes);
const certificates = encodeSignedCertificates({
  identity: count(32, 1),
  certificates: [
    { hash: count(32, 2), notBeforeMs: 1_700_000_000_000, notAfterMs: 1_701_000_000_000 },
    { hash: count(32, 3), notBeforeMs: 0, notAfterMs: 9_007_199_254_740_991 },
  ],
  signature: count(64, 4),
});

/** A kind's number, and a payload that may be another's. The number is the first byte. */
export const frameTarget: Target = {
  name: "decodeFrame",
  weight: 415_000,
  make(random) {
    const base = random.of(frames);
    const other = random.of(frames).subarray(FRAME_HEADER_BYTES);
    const payload = mutate(base.subarray(FRAME_HEADER_BYTES), random, other);
    const input = new Uint8Array(1 + payload.length);
    input[0] = random.below(20) === 0 ? random.below(256) : (base[4] ?? 0);
    input.set(payload, 1);
    return input;
  },
  check(input) {
    const number = input[0] ?? 0;
    let frame;
    try {
      frame = decodeFrame(number, input.subarray(1));
    } catch (error) {
      return documented(error, ["FRAME_MALFORMED", "VERSION_UNSUPPORTED"]);
    }
    if (frame === undefined) return "unknown";
    requireBounded(frame, input);
    const again = encodeFrame(frame);
    const payload = again.subarray(FRAME_HEADER_BYTES);
    requireThat(again[4] === number, `kind ${number} became ${again[4]}`);
    // An error number of a later version reads as INTERNAL: the only thing that may change.
    if (frame.kind !== "error") requireSame(payload, input.subarray(1));
    const twice = decodeFrame(number, payload);
    requireThat(twice !== undefined, "a frame became unknown");
    requireSame(encodeFrame(twice satisfies Frame), again);
    return "accepted";
  },
};

export const messageTarget: Target = {
  name: "decodeMessage",
  weight: 460_000,
  make(random) {
    const base = random.of(messages);
    const input = mutate(base, random, random.of(messages));
    // Most must get past the number.
    if (input.length > 0 && random.below(4) > 0) input[0] = base[0] ?? 0;
    return input;
  },
  check(input) {
    let message;
    try {
      message = decodeMessage(input);
    } catch (error) {
      return documented(error, ["MESSAGE_MALFORMED"]);
    }
    if (message === undefined) return "unknown";
    requireBounded(message, input);
    requireSame(encodeMessage(message), input);
    return "accepted";
  },
};

/** The text's bytes: now and then of something else than base64url. */
export const ticketTarget: Target = {
  name: "decodeTicket",
  weight: 30_000,
  make(random) {
    const bytes = mutate(random.of(tickets), random, random.of(tickets));
    const text = TICKET_PREFIX + toBase64Url(bytes);
    const input = Buffer.from(text);
    return random.below(4) === 0 ? mutate(input, random, input) : input;
  },
  check(input) {
    let ticket;
    try {
      ticket = decodeTicket(Buffer.from(input).toString("utf8"));
    } catch (error) {
      return documented(error, ["TICKET_MALFORMED"]);
    }
    requireBounded(ticket, input);
    const text = encodeTicket(ticket);
    requireThat(encodeTicket(decodeTicket(text)) === text, "a ticket changes when it is read");
    const body = fromBase64Url(text.slice(TICKET_PREFIX.length));
    requireThat(body.length <= input.length, "a ticket grew");
    return "accepted";
  },
};

export const certificatesTarget: Target = {
  name: "decodeSignedCertificates",
  weight: 10_000,
  make(random) {
    const text = Buffer.from(certificates);
    return mutate(text, random, text);
  },
  check(input) {
    let signed;
    try {
      signed = decodeSignedCertificates(Buffer.from(input).toString("utf8"));
    } catch (error) {
      return documented(error, ["FRAME_MALFORMED"]);
    }
    requireBounded(signed, input);
    const text = encodeSignedCertificates(signed);
    requireThat(
      encodeSignedCertificates(decodeSignedCertificates(text)) === text,
      "certificates change when they are read",
    );
    return "accepted";
  },
};

export function requireSame(a: Uint8Array, b: Uint8Array): void {
  if (Buffer.compare(a, b) === 0) return;
  throw new Violation(`encoded again it is ${Buffer.from(a).toString("hex")}`);
}

function requireBounded(value: unknown, input: Uint8Array): void {
  const bytes = retainedBytes(value, input.buffer);
  requireThat(bytes <= 4 * input.length + 2_048, `${input.length} bytes became ${bytes}`);
}
