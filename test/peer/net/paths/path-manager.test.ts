import { createCipheriv, hkdfSync, randomBytes } from "node:crypto";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { SignalSealer } from "../../../../peer/net/paths/signal.ts";
import { ByteWriter } from "../../../../relay/protocol/bytes.ts";
import { ProtocolError } from "../../../../relay/protocol/errors.ts";
import type { Role } from "../../../../relay/protocol/ids.ts";
import { makePaths, type PathWorld, type Tamper } from "../../../support/path-world.ts";
import { SeededRandom } from "../../../support/seeded-random.ts";

const ROLES = ["seeder", "leecher"] as const;
const worlds: PathWorld[] = [];

beforeEach(() => void vi.useFakeTimers());
afterEach(async () => {
  for (const { managers } of worlds.splice(0)) {
    await Promise.all([managers.seeder.close(), managers.leecher.close()]);
  }
  vi.useRealTimers();
});

function world(...options: Parameters<typeof makePaths>): PathWorld {
  const made = makePaths(...options);
  worlds.push(made);
  return made;
}

async function after(ms: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
}

/** Milliseconds from the beginning of each attempt to that of the next. */
function gaps({ network }: PathWorld, role: Role): number[] {
  const at = network.opened[role];
  return at.slice(1).map((ms, i) => Math.round(ms - (at[i] ?? 0)));
}

function last<T>(list: readonly T[]): T {
  const one = list.at(-1);
  if (one === undefined) throw new Error("nothing there");
  return one;
}

function failures({ events }: PathWorld, by: Role): string[] {
  return events.flatMap(({ by: who, event }) =>
    who === by && event.event === "pathAttempt" ? [event.failed] : [],
  );
}

test("PathManager hands out the relayed path, then the direct one, then the relayed one anew", async () => {
  const one = world();
  const { managers, network, relay, events } = one;
  const relayed = {
    seeder: await managers.seeder.pairing(),
    leecher: await managers.leecher.pairing(),
  };
  for (const role of ROLES) {
    expect(relayed[role].linkKind).toBe("memory");
    expect(relayed[role].superseded?.()).toBe(false);
  }
  await after(100);
  for (const role of ROLES) {
    expect(relayed[role].superseded?.()).toBe(true);
    expect(managers[role].linkKind).toBe("direct");
    // The next channel is opened while this one is served.
    expect(relayed[role].retire?.signal.aborted).toBe(true);
    expect(relayed[role].retire?.next()?.linkKind).toBe("direct");
    expect(relayed[role].lost.aborted).toBe(false);
  }
  // What is under way is let in first.
  expect((await managers.leecher.pairing()).linkKind).toBe("direct");
  expect(relayed.leecher.lost.aborted).toBe(false);
  relayed.leecher.retire?.done();
  expect(relayed.leecher.lost.aborted).toBe(true);
  // The source goes on as it was until its streams break, and it asks for the next way.
  expect(relayed.seeder.lost.aborted).toBe(false);
  expect((await managers.seeder.pairing()).linkKind).toBe("direct");
  expect(relayed.seeder.lost.aborted).toBe(true);
  await after(600);
  expect(relay.renewals).toContainEqual({ by: "leecher", pairing: 1 });
  expect(relay.renewals.every(({ pairing }) => pairing === 1)).toBe(true);

  const direct = {
    seeder: await managers.seeder.pairing(),
    leecher: await managers.leecher.pairing(),
  };
  last(network.paths).leecher.lose("the other peer is silent");
  await after(50);
  for (const role of ROLES) {
    expect(direct[role].lost.aborted).toBe(true);
    const back = await managers[role].pairing();
    expect(back).toMatchObject({ linkKind: "memory" });
    expect(back.lost.aborted).toBe(false);
    expect(managers[role].linkKind).toBe("memory");
  }
  const told = events.flatMap(({ by, event }) =>
    event.event === "path" && event.path === "relayed" ? [`${by}: ${event.reason}`] : [],
  );
  expect(told.toSorted()).toEqual([
    "leecher: the other peer is silent",
    "seeder: the other peer left it: the other peer is silent",
  ]);
});

test("a path that is lost is tried again after 15 s, and one that lived for long is a first one", async () => {
  const one = world();
  await after(100);
  last(one.network.paths).leecher.lose("broken");
  await after(14_000);
  expect(one.network.paths).toHaveLength(1);
  await after(2_000);
  expect(one.network.paths).toHaveLength(2);
  await after(61_000);
  last(one.network.paths).leecher.lose("broken");
  await after(100);
  expect(one.network.paths).toHaveLength(3);
});

test("a half-chosen path costs nothing", async () => {
  const one = world({ reach: "half" });
  const relayed = {
    seeder: await one.managers.seeder.pairing(),
    leecher: await one.managers.leecher.pairing(),
  };
  await after(4_000);
  expect(one.managers.seeder.linkKind).toBe("direct");
  await after(2_000);
  for (const role of ROLES) {
    expect(relayed[role].lost.aborted).toBe(false);
    expect(one.managers[role].linkKind).toBe("memory");
    expect((await one.managers[role].pairing()).linkKind).toBe("memory");
  }
  expect(one.relay.renewals).toEqual([]);
});

test("the streams of a pairing that was left are not used again, whenever the direct path breaks", async () => {
  const one = world();
  const before = await one.managers.leecher.pairing();
  await after(100);
  before.retire?.done();
  expect(before.lost.aborted).toBe(true);
  last(one.network.paths).leecher.lose("broken at once");
  const back = one.managers.leecher.pairing();
  let isBack = false;
  void back.then(() => (isBack = true));
  // The relay has not been asked for another pairing yet.
  await after(200);
  expect(one.relay.renewals).toEqual([]);
  expect(isBack).toBe(false);
  await after(600);
  expect(one.relay.renewals).toContainEqual({ by: "leecher", pairing: 1 });
  expect((await back).linkKind).toBe("memory");
});

test("an answer of an earlier attempt, given again ahead of the right one, is not believed", async () => {
  const one = world({ reach: "none" });
  await after(10_000);
  const answer = one.relay.seen.find(({ from }) => from === "seeder");
  one.network.reach = "both";
  one.relay.tamper = (payload, from) => {
    if (from === "leecher" && answer !== undefined) one.relay.deliver("leecher", answer.payload);
    return [{ payload, afterMs: 5 }];
  };
  await after(15_000);
  expect(answer).toBeDefined();
  expect(one.network.opened.leecher).toHaveLength(2);
  for (const role of ROLES) expect(one.managers[role].linkKind).toBe("direct");
});

test("attempts that fail are repeated after 15 s, 60 s and then every 5 min, and say why", async () => {
  const one = world({ reach: "none" });
  await after(20 * 60_000);
  const found = gaps(one, "leecher");
  const waits = [15_000, 60_000, 300_000, 300_000];
  waits.forEach((waitMs, i) => {
    expect(found[i]).toBeGreaterThanOrEqual(waitMs);
    expect(found[i]).toBeLessThan(waitMs + 7_000);
  });
  expect(new Set(failures(one, "leecher"))).toEqual(
    new Set(["no datagram of the other peer came through"]),
  );
});

test("peers that meet again and again begin at most one attempt in 2 s", async () => {
  const one = world({ reach: "none" });
  for (let i = 0; i < 600; i++) {
    one.relay.repair();
    await after(100);
  }
  for (const role of ROLES) {
    expect(one.network.opened[role].length).toBeGreaterThan(3);
    expect(Math.min(...gaps(one, role))).toBeGreaterThanOrEqual(1_999);
    expect(one.network.most[role]).toBe(1);
  }
});

/** What a relay can do with signals that it cannot read. */
const tampers: Record<string, (random: SeededRandom) => Tamper> = {
  drops: (random) => (payload) => (random.below(2) === 0 ? [] : [{ payload, afterMs: 5 }]),
  "repeats twenty times": () => (payload) =>
    Array.from({ length: 20 }, (_, i) => ({ payload, afterMs: 5 + i * 700 })),
  reorders: (random) => (payload) => [{ payload, afterMs: random.below(9_000) }],
  alters: (random) => (payload) => {
    const changed = payload.slice();
    const at = random.below(changed.length);
    changed[at] = (changed[at] ?? 0) ^ (1 + random.below(255));
    return [{ payload: random.below(2) === 0 ? changed : payload, afterMs: 5 }];
  },
  "gives back": () => (payload) => [{ payload, afterMs: 5 }],
};

test.each(Object.entries(tampers))(
  "signals that the relay %s make no peer work more than once in 2 s, and it goes direct afterwards",
  async (name, make) => {
    for (let seed = 1; seed <= 4; seed++) {
      const random = new SeededRandom(seed);
      const one = world({ reach: "none" });
      one.relay.tamper = make(random);
      for (let s = 0; s < 400; s++) {
        if (random.below(20) === 0) one.relay.repair();
        // All that ever passed may come again, to either side.
        for (let i = 0; i < 3; i++) {
          const { seen } = one.relay;
          const old = seen[random.below(Math.max(1, seen.length))];
          const to = random.below(2) === 0 ? "seeder" : "leecher";
          if (old !== undefined) one.relay.deliver(to, old.payload);
          one.relay.deliver(to, random.bytes(random.below(200)));
        }
        await after(1_000);
      }
      for (const role of ROLES) {
        expect(one.network.most[role], `${name} ${seed}`).toBeLessThanOrEqual(1);
        expect(Math.min(Infinity, ...gaps(one, role))).toBeGreaterThanOrEqual(1_999);
        expect(one.network.open[role]).toBeLessThanOrEqual(1);
      }
      one.relay.tamper = (payload) => [{ payload, afterMs: 5 }];
      one.network.reach = "both";
      await after(330_000);
      expect(one.managers.leecher.linkKind, `${name} ${seed}`).toBe("direct");
      expect(one.managers.seeder.linkKind, `${name} ${seed}`).toBe("direct");
    }
  },
);

test("a working path stays whatever old signals come again, thousands in a second", async () => {
  const one = world({ reach: "none" });
  await after(10_000);
  one.network.reach = "both";
  await after(15_000);
  expect(one.managers.leecher.linkKind).toBe("direct");
  const { seeder, leecher } = last(one.network.paths);
  const opened = one.network.opened.seeder.length;
  const signals = one.relay.seen.slice();
  const fallbacks = failures(one, "seeder").length;
  expect(fallbacks).toBeGreaterThan(0);
  for (let i = 0; i < 5_000; i++) {
    const { payload } = signals[i % signals.length] ?? last(signals);
    one.relay.deliver("seeder", payload);
    one.relay.deliver("leecher", payload);
    if (i % 5 === 0) await after(1);
  }
  await after(5_000);
  expect(seeder.lost.aborted || leecher.lost.aborted).toBe(false);
  expect(one.managers.seeder.linkKind).toBe("direct");
  expect(one.network.opened.seeder).toHaveLength(opened);
});

test("a leecher that offers without end makes the seeder try once in 2 s, one at a time, the newest", async () => {
  const one = world({ reach: "none", policies: { leecher: "relay" } });
  const sealer = new SignalSealer("leecher", one.secrets);
  const attempts = Array.from({ length: 4_000 }, () => randomBytes(16));
  for (const [i, attempt] of attempts.entries()) {
    const offer = { kind: "offer", attempt, startedAtMs: i + 1, candidates: [] } as const;
    one.relay.deliver("seeder", sealer.seal(offer));
    if (i % 4 === 0) await after(2);
  }
  await after(60_000);
  expect(one.network.opened.seeder.length).toBeLessThanOrEqual(3);
  expect(Math.min(...gaps(one, "seeder"))).toBeGreaterThanOrEqual(1_999);
  expect(one.network.most.seeder).toBe(1);
  // One that was begun too early is over; the answer is to the newest.
  const opener = new SignalSealer("leecher", one.secrets);
  const answers = one.relay.seen.flatMap(({ payload }) => {
    const signal = opener.open(payload);
    return signal?.kind === "answer" ? [signal.attempt] : [];
  });
  expect(Buffer.compare(last(answers), last(attempts))).toBe(0);
});

test("a seeder that was told to use the relay only refuses, and the leecher says why", async () => {
  const one = world({ policies: { seeder: "relay" } });
  await after(10_000);
  expect(failures(one, "leecher")).toEqual(["the source was told to use the relay only"]);
  expect(one.network.opened.seeder).toEqual([]);
  expect((await one.managers.leecher.pairing()).linkKind).toBe("memory");
});

test("a leecher that was told to use the relay only never tries", async () => {
  const one = world({ policies: { leecher: "relay" } });
  await after(3_600_000);
  expect(one.relay.seen).toEqual([]);
  expect(one.network.opened).toEqual({ seeder: [], leecher: [] });
});

test("peers that were told to go direct only never use the relay's streams, and hear that the session is over", async () => {
  const direct = { seeder: "direct", leecher: "direct" } as const;
  const one = world({ reach: "none", policies: direct });
  const asked = ROLES.map((role) => one.managers[role].pairing());
  let answered = 0;
  for (const pairing of asked) void pairing.then(() => answered++).catch(() => undefined);
  await after(10_000);
  expect(answered).toBe(0);
  one.network.reach = "both";
  await after(20_000);
  for (const pairing of asked) expect((await pairing).linkKind).toBe("direct");

  const two = world({ reach: "none", policies: direct });
  const waiting = Promise.allSettled(ROLES.map((role) => two.managers[role].pairing()));
  await after(1_000);
  two.relay.endSession(new ProtocolError("SESSION_ENDED", "it was cancelled"));
  await after(1_000);
  for (const outcome of await waiting) {
    expect(outcome).toMatchObject({ status: "rejected", reason: { code: "SESSION_ENDED" } });
  }
});

test("a relay that passes no signals is not asked for any", async () => {
  const one = makePaths();
  one.relay.passesSignals = false;
  worlds.push(one);
  await after(10_000);
  expect(one.relay.seen).toEqual([]);
  expect((await one.managers.leecher.pairing()).linkKind).toBe("memory");
});

test("close ends attempts that are under way, paths and timers", async () => {
  // While addresses are gathered, while the answer is awaited, while punching, and on the direct path.
  for (const atMs of [10, 23, 2_000, 100]) {
    const one = makePaths({ reach: atMs === 2_000 ? "none" : "both" });
    await after(atMs);
    await Promise.all([one.managers.seeder.close(), one.managers.leecher.close()]);
    if (atMs === 10) expect(one.network.aborted.leecher).toBe(1);
    for (const path of one.network.paths) {
      for (const role of ROLES) expect(path[role].lost.aborted).toBe(true);
    }
    expect(one.network.open).toEqual({ seeder: 0, leecher: 0 });
    await after(50);
    expect(vi.getTimerCount(), `closed after ${atMs} ms`).toBe(0);
    const seen = one.relay.seen.length;
    one.relay.repair();
    await after(600_000);
    expect(one.relay.seen).toHaveLength(seen);
    await expect(one.managers.leecher.pairing()).rejects.toMatchObject({ code: "LINK_CLOSED" });
  }
});

test("a path that comes at the moment of close is closed", async () => {
  const one = makePaths();
  one.network.onConnected = (role) => {
    if (role === "leecher") void one.managers.leecher.close();
  };
  await after(200);
  expect(last(one.network.paths).leecher.lost.aborted).toBe(true);
  expect(one.managers.leecher.linkKind).not.toBe("direct");
  await one.managers.seeder.close();
});

test("a direct path that carries far less than the relay did is left by the leecher, for both", async () => {
  let bytesPerS = 100e6;
  let bytes = 0;
  const one = world({
    reach: "none",
    measure: () => {
      bytes += bytesPerS;
      return { bytesPerS, bytes };
    },
  });
  await after(10_000);
  one.network.reach = "both";
  while (one.managers.leecher.linkKind !== "direct") await after(10);
  expect(last(one.network.requests).request.bytesPerS).toBe(100e6);
  // What is measured is an average, of the way before at first.
  await after(2_500);
  bytesPerS = 10e6;
  await after(7_000);
  expect(one.managers.leecher.linkKind).toBe("direct");
  await after(5_000);
  expect(last(one.network.paths).leecher.closedFor).toMatch(/direct carries 10.0 MB\/s/);
  for (const role of ROLES) {
    expect((await one.managers[role].pairing()).linkKind).toBe("memory");
  }
});

test("the relayed path is left after 5 s, whatever is still under way on it", async () => {
  const one = world();
  const relayed = await one.managers.leecher.pairing();
  await after(4_000);
  expect(relayed.lost.aborted).toBe(false);
  await after(2_000);
  expect(relayed.lost.aborted).toBe(true);
});

/** Seals what `SignalSealer` would not: the other peer may be of another make. */
function sealedOffer({ secrets }: PathWorld, count: number): Uint8Array {
  const key = new Uint8Array(
    hkdfSync("sha256", secrets.secret, secrets.sessionId, "memferry signal 1 leecher", 32),
  );
  const plain = new ByteWriter().u8(0).bytes(randomBytes(16)).u53(1).u8(count);
  for (let i = 0; i < count; i++) {
    plain
      .u8(0)
      .u8(4)
      .bytes(Uint8Array.of(192, 0, 2, i))
      .u16(4_000);
  }
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  const sealed = Buffer.concat([cipher.update(plain.finish()), cipher.final()]);
  return new ByteWriter().bytes(nonce).bytes(sealed).bytes(cipher.getAuthTag()).finish();
}

test("an offer with more than eight addresses is not followed, and one with eight is", async () => {
  for (const count of [9, 255, 8]) {
    const one = world({ reach: "none", policies: { leecher: "relay" } });
    one.relay.deliver("seeder", sealedOffer(one, count));
    await after(100);
    expect(one.network.opened.seeder).toHaveLength(count === 8 ? 1 : 0);
    expect(one.network.requests.map(({ request }) => request.candidates.length)).toEqual(
      count === 8 ? [8] : [],
    );
  }
});
