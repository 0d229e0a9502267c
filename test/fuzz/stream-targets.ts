/**
 * What reads streams: framing, the handshake, sealed records; and what reads files of ours.
 *
 * @module
 */
import { createHash } from "node:crypto";

import { unseal } from "../../peer/journal/envelope.ts";
import { leecherCodec, seederCodec } from "../../peer/journal/records.ts";
import { leecherHandshake, seederHandshake } from "../../peer/migration/handshake.ts";
import { SealedStream } from "../../peer/migration/sealed-stream.ts";
import { CONTROL_FRAME_BYTES_MAX } from "../../relay/protocol/limits.ts";
import { MessageReader, readFrame } from "../../relay/protocol/message-stream.ts";
import type { ByteStream, CloseInfo } from "../../relay/protocol/stream.ts";
import { count } from "../fixtures/example.ts";
import { HANDSHAKE_CONTEXT } from "../fixtures/handshake.ts";
import { JOURNAL_SESSION_ID } from "../fixtures/journals.ts";
import { recordJournals } from "../fixtures/peer-recordings.ts";
import { recordFrames } from "../fixtures/relay-recordings.ts";
import { recordedBytes } from "../fixtures/wire-file.ts";
import { joined, mutate, pieces } from "./mutate.ts";
import { documented, requireThat, type Target, Violation } from "./targets.ts";

/** Gives pieces and then ends. Who reads on and on is stopped. */
class Pieces implements ByteStream {
  readonly closed = new Promise<CloseInfo>(() => undefined);
  readonly #pieces: readonly Uint8Array[];
  #next = 0;

  constructor(given: readonly Uint8Array[]) {
    this.#pieces = given;
  }

  read(): Promise<Uint8Array | null> {
    if (this.#next > this.#pieces.length) {
      return Promise.reject(new Violation("reads on after the end of the stream"));
    }
    return Promise.resolve(this.#pieces[this.#next++] ?? null);
  }

  write(): Promise<void> {
    return Promise.resolve();
  }

  end(): Promise<void> {
    return Promise.resolve();
  }

  abort(): void {
    // Nobody is at the other end.
  }
}

const frames = recordFrames().map(({ bytes }) => bytes);

export const framingTarget: Target = {
  name: "MessageReader",
  weight: 40_000,
  make(random) {
    const several = Array.from({ length: 1 + random.below(4) }, () => random.of(frames));
    return mutate(joined(...several), random, random.of(frames));
  },
  async check(input, random) {
    const reader = new MessageReader(new Pieces(pieces(input, random)));
    let taken = 0;
    try {
      for (;;) {
        const frame = await readFrame(reader, CONTROL_FRAME_BYTES_MAX);
        if (frame === null) return "accepted";
        requireThat(++taken <= input.length / 5, "more frames than bytes");
      }
    } catch (error) {
      return documented(error, ["FRAME_MALFORMED", "FRAME_TOO_LARGE", "VERSION_UNSUPPORTED"]);
    }
  },
};

/** Records of one stream under a known key, made once. */
const plain = [1, 5, 40, 300].map((size) => count(size, size));
const secret = count(32, 9);
const sealedOptions = {
  streamIndex: 2,
  sendSecret: secret,
  receiveSecret: secret,
  messageBytesMax: 1_024,
};
const records: Uint8Array[] = [];
class Collector extends Pieces {
  override write(bytes?: Uint8Array): Promise<void> {
    if (bytes !== undefined) records.push(bytes);
    return Promise.resolve();
  }
}
const sender = new SealedStream(new Collector([]), sealedOptions);
for (const bytes of plain) void sender.send(bytes);

export const sealedTarget: Target = {
  name: "SealedStream",
  weight: 13_000,
  make: (random) => mutate(joined(...records), random, random.of(records)),
  async check(input, random) {
    const stream = new SealedStream(new Pieces(pieces(input, random)), sealedOptions);
    let opened = 0;
    try {
      for (;;) {
        const message = await stream.receive();
        if (message === null) return opened === plain.length ? "accepted" : "cut at a record";
        const sent = plain[opened++];
        // What opens is what was sent, in its order.
        requireThat(
          sent !== undefined && Buffer.compare(sent, message) === 0,
          `record ${opened - 1} opened to something else`,
        );
      }
    } catch (error) {
      return documented(error, [
        "CHANNEL_CORRUPT",
        "PEER_LOST",
        "FRAME_MALFORMED",
        "FRAME_TOO_LARGE",
      ]);
    }
  },
};

const handshake = recordedBytes("handshake");
const [offer, answer, confirm] = ["offer", "answer", "confirm"].map(
  (name) => handshake.get(name) ?? new Uint8Array(),
);

/** The first byte says which side reads the rest. */
export const handshakeTarget: Target = {
  name: "handshake",
  weight: 300,
  make(random) {
    const side = random.below(2);
    const own = side === 0 ? joined(offer ?? secret, confirm ?? secret) : (answer ?? secret);
    return joined(Uint8Array.of(side), mutate(own, random, confirm ?? secret));
  },
  async check(input, random) {
    const stream = new Pieces(pieces(input.subarray(1), random));
    const context = { ...HANDSHAKE_CONTEXT, features: 0 };
    try {
      if (input[0] === 0) await seederHandshake(stream, new MessageReader(stream), context);
      else
        await leecherHandshake(stream, new MessageReader(stream), { ...context, dataStreams: 1 });
    } catch (error) {
      return documented(error, [
        "CHANNEL_REFUSED",
        "VERSION_UNSUPPORTED",
        "PEER_LOST",
        "FRAME_MALFORMED",
        "FRAME_TOO_LARGE",
      ]);
    }
    throw new Violation("a handshake came to an end with bytes of another one");
  },
};

const journals = recordJournals().map(({ bytes }) => bytes);
/** Magic, session id, length, digest. */
const HEAD_BYTES = 19 + 16 + 4;
const DIGEST_BYTES = 32;

/** Files that are damaged, and files that somebody made: whole, with another body. */
export const journalTarget: Target = {
  name: "journal",
  weight: 16_700,
  make(random) {
    const file = random.of(journals);
    if (random.below(3) > 0) return mutate(file, random, random.of(journals));
    const body = file.subarray(HEAD_BYTES + DIGEST_BYTES);
    const changed = mutate(body, random, random.of(journals).subarray(HEAD_BYTES + DIGEST_BYTES));
    // What has our digest is JSON of ours, if not of this version.
    if (!isJson(changed)) return mutate(file, random, body);
    const head = file.slice(0, HEAD_BYTES);
    new DataView(head.buffer).setUint32(HEAD_BYTES - 4, changed.length, true);
    return joined(head, createHash("sha256").update(head).update(changed).digest(), changed);
  },
  check(input) {
    let body;
    try {
      body = unseal("journal", JOURNAL_SESSION_ID, input, "a journal");
    } catch (error) {
      return documented(error, ["JOURNAL_INVALID"]);
    }
    return [seederCodec, leecherCodec].map((codec) => verdictOf(codec, body)).join(" ");
  },
};

function isJson(bytes: Uint8Array): boolean {
  try {
    JSON.parse(Buffer.from(bytes).toString("utf8"));
    return true;
  } catch {
    return false;
  }
}

/** A codec says by any error what is wrong; one of the language would be a mistake of ours. */
function verdictOf(codec: { decode(value: unknown): unknown }, body: unknown): string {
  try {
    codec.decode(body);
    return "accepted";
  } catch (error) {
    if (!(error instanceof Error) || error instanceof TypeError || error instanceof RangeError) {
      throw error;
    }
    return "refused";
  }
}
