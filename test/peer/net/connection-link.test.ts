import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  openConnectionLink,
  SPARES_MAX,
  type Connection,
  type Connector,
} from "../../../peer/net/connection-link.ts";
import { LinkError } from "../../../peer/net/errors.ts";
import type { Link } from "../../../peer/net/link.ts";
import { PendingStream } from "../../../peer/net/pending-stream.ts";
import type { ByteStream, CloseInfo } from "../../../relay/protocol/stream.ts";

class FakeStream implements ByteStream {
  readonly written: Uint8Array[] = [];
  resolve: (info: CloseInfo) => void = () => {};
  readonly closed = new Promise<CloseInfo>((resolve) => {
    this.resolve = resolve;
  });
  read = (): Promise<null> => Promise.resolve(null);
  end = (): Promise<void> => Promise.resolve();
  write = (bytes: Uint8Array): Promise<void> => {
    this.written.push(bytes);
    return Promise.resolve();
  };
  abort = (code: CloseInfo["code"], reason: string): void => this.resolve({ code, reason });
}

interface Made {
  readonly stream: FakeStream;
  kept: number;
  dropped: boolean;
  isOpen: boolean;
  go: () => void;
}

let made: Made[];
let fail: boolean;
/** Made ahead and not taken. */
const spares = (): Made[] => made.filter((one) => !one.isOpen);

const connector: Connector = {
  kind: "memory",
  greets: true,
  connect: async () => {
    if (fail) throw new LinkError("RELAY_UNREACHABLE", "gone");
    let go = (): void => {};
    const gone = new Promise<void>((resolve) => {
      go = resolve;
    });
    const one: Made = { stream: new FakeStream(), kept: 0, dropped: false, isOpen: false, go };
    made.push(one);
    const open = (): Promise<ByteStream> => {
      one.isOpen = true;
      return Promise.resolve(one.stream);
    };
    return {
      gone,
      open,
      openFirst: open,
      keep: () => {
        one.kept++;
        return Promise.resolve(true);
      },
      drop: () => {
        one.dropped = true;
        go();
      },
    } satisfies Connection;
  },
};

const limits = { deadlineMs: 1_000, signal: undefined };

async function greetedLink(): Promise<Link> {
  const link = await openConnectionLink(connector, {
    ...limits,
    greeting: () => new Uint8Array(1),
  });
  await vi.advanceTimersByTimeAsync(0);
  return link;
}

beforeEach(() => {
  vi.useFakeTimers();
  made = [];
  fail = false;
});
afterEach(() => vi.useRealTimers());

describe("a link whose streams have connections of their own", () => {
  test("makes one connection ahead for a peer that greets, and none for others", async () => {
    await openConnectionLink(connector, limits);
    expect(made).toHaveLength(1);
    const link = await greetedLink();
    expect(made).toHaveLength(3);
    await link.openStream();
    await link.openStream();
    expect(made).toHaveLength(3);
  });

  test("warm() makes what is missing, up to a bound", async () => {
    const link = await greetedLink();
    link.warm?.(4);
    link.warm?.(4);
    await vi.advanceTimersByTimeAsync(0);
    expect(made).toHaveLength(5);
    link.warm?.(1_000);
    await vi.advanceTimersByTimeAsync(0);
    expect(made).toHaveLength(1 + SPARES_MAX);
    await link.close("OK", "done");
    expect(spares().every((one) => one.dropped)).toBe(true);
  });

  test("keeps one for a peer that waits, by a word from time to time, and drops the others", async () => {
    const link = await greetedLink();
    await link.openStream();
    link.warm?.(3);
    await vi.advanceTimersByTimeAsync(60_000);
    const left = spares().filter((one) => !one.dropped);
    expect(left).toHaveLength(1);
    expect(left[0]?.kept).toBeGreaterThanOrEqual(3);
    const count = made.length;
    await link.openStream();
    expect(made).toHaveLength(count);
    await link.close("OK", "done");
  });

  test("does not hand out one that is gone", async () => {
    const link = await greetedLink();
    await link.openStream();
    made[0]?.go();
    await vi.advanceTimersByTimeAsync(0);
    await link.openStream();
    expect(made).toHaveLength(3);
    expect(made[0]?.isOpen).toBe(false);
  });

  test("tells what is true when a stream is wanted, not what was when a spare was made", async () => {
    const link = await greetedLink();
    await link.openStream();
    await link.openStream();
    fail = true;
    link.warm?.(2);
    await vi.advanceTimersByTimeAsync(0);
    await expect(link.openStream()).rejects.toMatchObject({ code: "LINK_CLOSED" });
    fail = false;
    await link.openStream();
  });
});

describe("PendingStream", () => {
  test("writes in order, whether it is open or not", async () => {
    const stream = new FakeStream();
    const opening = Promise.withResolvers<ByteStream>();
    const pending = new PendingStream(opening.promise);
    const early = [1, 2, 3].map((n) => pending.write(Uint8Array.of(n)));
    opening.resolve(stream);
    const late = [4, 5].map((n) => pending.write(Uint8Array.of(n)));
    await Promise.all([...early, ...late]);
    expect(stream.written.map((bytes) => bytes[0])).toEqual([1, 2, 3, 4, 5]);
  });

  test("fails all that waits when it cannot be opened, and says why", async () => {
    const opening = Promise.withResolvers<ByteStream>();
    const pending = new PendingStream(opening.promise);
    const waiting = [pending.read(), pending.write(Uint8Array.of(1)), pending.end()];
    opening.reject(new LinkError("RELAY_UNREACHABLE", "no relay answers"));
    for (const one of await Promise.allSettled(waiting)) {
      expect(one).toMatchObject({ status: "rejected", reason: { code: "LINK_CLOSED" } });
    }
    expect(await pending.closed).toEqual({ code: "LINK_CLOSED", reason: "no relay answers" });
  });

  test("that was dropped before it was open is dropped when it is", async () => {
    const stream = new FakeStream();
    const opening = Promise.withResolvers<ByteStream>();
    const pending = new PendingStream(opening.promise);
    pending.abort("PEER_GONE", "not wanted");
    await expect(pending.write(Uint8Array.of(1))).rejects.toMatchObject({ code: "PEER_GONE" });
    opening.resolve(stream);
    expect(await pending.closed).toEqual({ code: "PEER_GONE", reason: "not wanted" });
  });
});
