/**
 * What every link does, whatever carries it.
 *
 * @module
 */
import process from "node:process";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Dial, Link } from "../../peer/net/link.ts";
import { ProtocolError } from "../../relay/protocol/errors.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import type { IncomingStream } from "../../relay/transport/transport.ts";

export interface LinkUnderTest {
  readonly dial: Dial;
  readonly url: string;
  readonly certificateHashes: readonly Uint8Array[];
  /** The next stream that reached the relay. */
  readonly incoming: () => Promise<IncomingStream>;
  /** Ends the relay's listener and with it every link. */
  readonly close: () => Promise<void>;
}

export interface LinkAbilities {
  /** The end of one direction reaches the other side while the other direction goes on. */
  readonly end?: boolean;
  /** The code of an abort reaches the other side. */
  readonly abortCode?: boolean;
  /** A sender is stopped by a receiver that does not read. */
  readonly backpressure?: boolean;
  /** The reason of an abort reaches the other side. */
  readonly abortReason?: boolean;
}

const MIB = 1024 * 1024;

export function linkCompliance(
  name: string,
  open: () => Promise<LinkUnderTest>,
  abilities: LinkAbilities = {},
): void {
  const can = {
    end: true,
    abortCode: true,
    backpressure: true,
    abortReason: false,
    ...abilities,
  };

  describe(`a ${name} link`, () => {
    let under: LinkUnderTest;
    let link: Link;

    beforeAll(async () => {
      under = await open();
      link = await dialIt();
      // A link may make its first connection when it is dialed: take it, so that streams pair up below.
      const [near] = await pair();
      near.abort("OK", "not used");
    });
    afterAll(async () => {
      await link.close("OK", "the test is over");
      await under.close();
    });

    function dialIt(): Promise<Link> {
      return under.dial({ url: under.url, certificateHashes: under.certificateHashes });
    }

    /** The first bytes make the stream known to the relay on every transport. */
    async function pair(on: Link = link): Promise<[ByteStream, ByteStream]> {
      const near = await on.openStream();
      const [far] = await Promise.all([under.incoming(), near.write(Uint8Array.of(7))]);
      expect(await take(far.stream, 1)).toEqual(Uint8Array.of(7));
      return [near, far.stream];
    }

    test("says which kind it is to both sides", async () => {
      const near = await link.openStream();
      const [far] = await Promise.all([under.incoming(), near.write(Uint8Array.of(1))]);
      expect(far.kind).toBe(link.kind);
      expect(far.remoteAddress).not.toBe("");
      expect(far.connectionId).not.toBe("");
      near.abort("OK", "done");
    });

    test("echoes writes of any size, 1 byte to 10 MiB", async () => {
      const [near, far] = await pair();
      const echoing = echo(far);
      for (const size of [1, 2, 255, 65_535, 65_536, 65_537, MIB + 1, 10 * MIB]) {
        const sent = pattern(size, size);
        const [, got] = await Promise.all([near.write(sent.slice()), take(near, size)]);
        expect(same(got, sent), `${size} bytes`).toBe(true);
      }
      near.abort("OK", "done");
      await echoing;
    });

    test("ignores a write of nothing", async () => {
      const [near, far] = await pair();
      await near.write(new Uint8Array(0));
      await near.write(Uint8Array.of(5));
      expect(await far.read()).toEqual(Uint8Array.of(5));
      near.abort("OK", "done");
    });

    test("keeps the order of writes that overlap", async () => {
      const [near, far] = await pair();
      const pieces = Array.from({ length: 200 }, (_, index) => pattern(1 + index * 37, index));
      const writing = Promise.all(pieces.map((piece) => near.write(piece.slice())));
      const whole = join(pieces);
      expect(same(await take(far, whole.length), whole)).toBe(true);
      await writing;
      near.abort("OK", "done");
    });

    test("carries 32 streams at once", async () => {
      const pairs: [ByteStream, ByteStream][] = [];
      for (let index = 0; index < 32; index += 1) pairs.push(await pair());
      await Promise.all(
        pairs.map(async ([near, far], index) => {
          const sent = pattern(300_000 + index, index);
          const echoing = echo(far);
          const [, got] = await Promise.all([near.write(sent.slice()), take(near, sent.length)]);
          expect(same(got, sent)).toBe(true);
          near.abort("OK", "done");
          await echoing;
        }),
      );
    });

    test.runIf(can.backpressure)(
      "stops a sender whose receiver does not read, and loses nothing",
      async () => {
        for (const towards of ["relay", "peer"] as const) {
          const [near, far] = await pair();
          const [sender, receiver] = towards === "relay" ? [near, far] : [far, near];
          const piece = 64 * 1024;
          const total = 32 * MIB;
          let accepted = 0;
          const sending = (async () => {
            for (let at = 0; at < total; at += piece) {
              await sender.write(pattern(piece, at / piece));
              accepted = at + piece;
            }
          })();
          await settled(() => accepted);
          expect(accepted).toBeGreaterThan(0);
          // The kernels of both sides hold up to ten of them.
          expect(accepted).toBeLessThan(16 * MIB);

          // Another stream is not held up by it.
          const [otherNear, otherFar] = await pair();
          const echoing = echo(otherFar);
          const sent = pattern(MIB, 3);
          const [, back] = await Promise.all([otherNear.write(sent.slice()), take(otherNear, MIB)]);
          expect(same(back, sent)).toBe(true);
          otherNear.abort("OK", "done");
          await echoing;

          let rest: Uint8Array = new Uint8Array(0);
          let wrong = 0;
          for (let at = 0; at < total; at += piece) {
            const got = await takeFrom(receiver, piece, rest);
            rest = got.rest;
            wrong += same(got.bytes, pattern(piece, at / piece)) ? 0 : 1;
          }
          await sending;
          expect(wrong).toBe(0);
          near.abort("OK", "done");
        }
      },
    );

    test.runIf(can.end)("ends one direction and goes on with the other", async () => {
      const [near, far] = await pair();
      await near.write(Uint8Array.of(1, 2, 3));
      await near.end();
      expect(await take(far, 3)).toEqual(Uint8Array.of(1, 2, 3));
      expect(await far.read()).toBeNull();
      expect(await far.read()).toBeNull();
      await expect(near.write(Uint8Array.of(1))).rejects.toThrow(ProtocolError);
      const back = take(near, 3 * MIB);
      await far.write(pattern(3 * MIB, 1));
      await far.end();
      expect(same(await back, pattern(3 * MIB, 1))).toBe(true);
      expect(await near.read()).toBeNull();
      expect(await near.closed).toEqual({ code: "OK", reason: "" });
      expect(await far.closed).toEqual({ code: "OK", reason: "" });
    });

    test("delivers what was written before the end", async () => {
      const [near, far] = await pair();
      const sent = pattern(5 * MIB, 9);
      const got = take(far, sent.length);
      // The abort may come before the last of it has left.
      near.write(sent.slice()).catch(() => undefined);
      await near.end();
      expect(same(await got, sent)).toBe(true);
      near.abort("OK", "done");
    });

    test("an abort ends both sides", async () => {
      for (const from of ["peer", "relay"] as const) {
        const [near, far] = await pair();
        const [mine, theirs] = from === "peer" ? [near, far] : [far, near];
        const reading = theirs.read();
        reading.catch(() => {});
        const own = mine.read();
        own.catch(() => {});
        mine.abort("EPOCH_STALE", "the epoch moved on");
        mine.abort("INTERNAL", "twice");
        await expect(own).rejects.toThrow(ProtocolError);
        await expect(mine.write(Uint8Array.of(1))).rejects.toMatchObject({ code: "EPOCH_STALE" });
        expect(await mine.closed).toEqual({ code: "EPOCH_STALE", reason: "the epoch moved on" });
        await expect(reading).rejects.toThrow(ProtocolError);
        const seen = await theirs.closed;
        await expect(theirs.write(Uint8Array.of(1))).rejects.toThrow(ProtocolError);
        expect(seen.code).toBe(can.abortCode ? "EPOCH_STALE" : "LINK_CLOSED");
        expect(!can.abortReason || seen.reason === "the epoch moved on").toBe(true);
      }
    });

    test.runIf(can.backpressure)("an abort gets past a receiver that does not read", async () => {
      const [near, far] = await pair();
      let accepted = 0;
      const sending = (async () => {
        for (;;) {
          await near.write(new Uint8Array(64 * 1024));
          accepted += 1;
        }
      })();
      sending.catch(() => {});
      await settled(() => accepted);
      far.abort("LIMIT_EXCEEDED", "enough");
      await expect(sending).rejects.toThrow(ProtocolError);
    });

    test("a closed link rejects what waits on its streams", async () => {
      const own = await dialIt();
      const [near, far] = await pair(own);
      const waiting = [near.read(), far.read()];
      for (const one of waiting) one.catch(() => {});
      await own.close("PEER_GONE", "the peer leaves");
      for (const one of waiting) await expect(one).rejects.toThrow(ProtocolError);
      await expect(near.write(Uint8Array.of(1))).rejects.toThrow(ProtocolError);
      await expect(own.openStream()).rejects.toMatchObject({ code: "LINK_CLOSED" });
      expect(await own.closed).toEqual({ code: "PEER_GONE", reason: "the peer leaves" });
    });

    test(
      "opens and closes a hundred links and leaves nothing open",
      { timeout: 60_000 },
      async () => {
        const before = process.getActiveResourcesInfo().length;
        for (let count = 0; count < 100; count += 1) {
          const own = await dialIt();
          const [near] = await pair(own);
          await near.write(Uint8Array.of(1));
          await own.close("OK", "next");
          expect((await own.closed).code).toBe("OK");
        }
        // An aborted connection may take its deadline to be gone.
        const deadline = performance.now() + 5_000;
        while (performance.now() < deadline) {
          if (process.getActiveResourcesInfo().length <= before + 3) break;
          await new Promise((resolve) => {
            setTimeout(resolve, 100);
          });
        }
        expect(process.getActiveResourcesInfo().length).toBeLessThanOrEqual(before + 3);
      },
    );

    test("a relay that closes ends the link and its streams", async () => {
      const other = await open();
      const own = await other.dial({
        url: other.url,
        certificateHashes: other.certificateHashes,
      });
      const near = await own.openStream();
      await Promise.all([other.incoming(), near.write(Uint8Array.of(1))]);
      const reading = near.read();
      reading.catch(() => {});
      await other.close();
      await expect(reading).rejects.toThrow(ProtocolError);
      await own.closed;
      await own.close("OK", "over");
    });
  });
}

/** Bytes that tell their place, so that a swap or a gap is seen. */
export function pattern(size: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(size);
  const words = new Uint32Array(bytes.buffer, 0, size >> 2);
  let state = (seed * 2_654_435_761 + 1) >>> 0;
  for (let index = 0; index < words.length; index += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    words[index] = state;
  }
  for (let index = words.length << 2; index < size; index += 1) bytes[index] = seed + index;
  return bytes;
}

export function same(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0;
}

export function join(pieces: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(pieces));
}

/** Exactly so many bytes; more in the last piece is a failure. */
export async function take(stream: ByteStream, size: number): Promise<Uint8Array> {
  const { bytes, rest } = await takeFrom(stream, size, new Uint8Array(0));
  expect(rest.length).toBe(0);
  return bytes;
}

async function takeFrom(
  stream: ByteStream,
  size: number,
  first: Uint8Array,
): Promise<{ bytes: Uint8Array; rest: Uint8Array }> {
  const bytes = new Uint8Array(size);
  let filled = 0;
  let piece = first;
  for (;;) {
    const part = piece.subarray(0, size - filled);
    bytes.set(part, filled);
    filled += part.length;
    if (filled === size) return { bytes, rest: piece.subarray(part.length) };
    const next = await stream.read();
    if (next === null) throw new Error(`the stream ended after ${filled} of ${size} bytes`);
    piece = next;
  }
}

/** Sends back what comes until the stream ends in any way. */
export async function echo(stream: ByteStream): Promise<void> {
  try {
    for (;;) {
      const piece = await stream.read();
      if (piece === null) return await stream.end();
      await stream.write(piece);
    }
  } catch (error) {
    // The test aborts it when it has seen enough.
    if (!(error instanceof ProtocolError)) throw error;
  }
}

/** Waits until a count stands still. */
async function settled(count: () => number): Promise<void> {
  let still = 0;
  let last = -1;
  while (still < 10) {
    await new Promise((resolve) => {
      setTimeout(resolve, 30);
    });
    still = count() === last ? still + 1 : 0;
    last = count();
  }
}
