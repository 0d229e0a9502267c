// What is told of a session's data: parts of its manifest, its map, its events from where one has stopped; and that what
// is said to be allowed is.
import { randomBytes } from "node:crypto";

import { eq } from "drizzle-orm";
import fc from "fast-check";
import { beforeAll, beforeEach, describe, expect, test } from "vitest";

import { byteRange } from "../../../relay/api/byte-range.ts";
import { SESSION_ACTIONS } from "../../../relay/api/session-state.ts";
import { fromHex } from "../../../relay/db/hex.ts";
import { HOLDS, SESSION_MODES, session } from "../../../relay/db/schema.ts";
import { isEnded, ROLES, SESSION_STATES } from "../../../relay/protocol/ids.ts";
import { startHarness, type Harness } from "./harness.ts";

const HASH_BYTES = 32;
const CHUNKS = 2_500;
const SEGMENT = 1_024;

let harness: Harness;
let key: string;

beforeAll(async () => {
  harness = await startHarness();
  return () => harness[Symbol.asyncDispose]();
});
beforeEach(async () => {
  harness.advance(60);
  ({ key } = await harness.key("data"));
});

async function get(path: string, headers: Record<string, string> = {}): Promise<Response> {
  harness.advance(1);
  return await harness.app.request(path, {
    headers: { authorization: `Bearer ${key}`, ...headers },
  });
}

async function made(): Promise<string> {
  harness.advance(1);
  const response = await harness.ask(key, "POST", "/v1/sessions", { name: "s" });
  const { session: body } = (await response.json()) as { session: { id: string } };
  return body.id;
}

/** A session whose region is known, with the hashes of all chunks but those of the last segment. */
async function indexed(): Promise<{ id: string; hashes: Buffer }> {
  const id = await made();
  await harness.store.describe(fromHex(id), "seeder", {
    kind: "describe",
    regionName: "r",
    regionBytes: CHUNKS * 4_096,
    chunkBytes: 4_096,
    host: "h",
    version: "1",
  });
  const hashes = Buffer.alloc(CHUNKS * HASH_BYTES);
  randomBytes(2 * SEGMENT * HASH_BYTES).copy(hashes);
  for (const segment of [0, 1]) {
    const from = segment * SEGMENT * HASH_BYTES;
    await harness.store.index.putSegment(
      fromHex(id),
      1,
      segment,
      hashes.subarray(from, from + SEGMENT * HASH_BYTES),
    );
  }
  await harness.store.index.settled();
  return { id, hashes };
}

describe("a manifest", () => {
  test("comes in any part that is asked for", async () => {
    const { id, hashes } = await indexed();
    const path = `/v1/sessions/${id}/manifest`;
    const whole = await get(path);
    expect(whole.status).toBe(200);
    expect(whole.headers.get("accept-ranges")).toBe("bytes");
    expect(Buffer.compare(Buffer.from(await whole.arrayBuffer()), hashes)).toBe(0);
    const last = hashes.length - 1;
    const edge = SEGMENT * HASH_BYTES;
    for (const [range, first, end] of [
      ["bytes=0-0", 0, 0],
      [`bytes=${edge - 1}-${edge}`, edge - 1, edge],
      [`bytes=${2 * edge - 5}-`, 2 * edge - 5, last],
      ["bytes=-100", last - 99, last],
      [`bytes=5-${last + 1_000}`, 5, last],
    ] as const) {
      const part = await get(path, { range });
      expect(part.status).toBe(206);
      expect(part.headers.get("content-range")).toBe(`bytes ${first}-${end}/${hashes.length}`);
      expect(
        Buffer.compare(Buffer.from(await part.arrayBuffer()), hashes.subarray(first, end + 1)),
      ).toBe(0);
    }
    const past = await get(path, { range: `bytes=${hashes.length}-` });
    expect(past.status).toBe(416);
    expect(await past.json()).toMatchObject({ code: "RANGE_INVALID" });
  });

  test("a range lies within what there is, whatever is asked", () => {
    const number = fc.oneof(fc.constant(""), fc.nat(200).map(String));
    fc.assert(
      fc.property(number, number, fc.nat(100), (from, to, length) => {
        const range = byteRange(`bytes=${from}-${to}`, length);
        if (range === undefined || range === "unsatisfiable") return;
        expect(range.length).toBeGreaterThan(0);
        expect(range.first + range.length).toBeLessThanOrEqual(length);
      }),
    );
    for (const odd of ["bytes=1-2,4-5", "chunks=1-2", "bytes=a-b", "bytes=9-1", "", undefined]) {
      expect(byteRange(odd, 100)).toBeUndefined();
    }
  });
});

test("a map has a cell for each part, and in it what is worst there", async () => {
  const { id } = await indexed();
  const cells = async (query: string): Promise<number[]> => {
    const response = await get(`/v1/sessions/${id}/map?${query}`);
    expect(response.status).toBe(200);
    expect(response.headers.get("memferry-chunk-count")).toBe(String(CHUNKS));
    return [...new Uint8Array(await response.arrayBuffer())];
  };
  const [missing, sent] = [0, 1];
  // 2,048 of 2,500 are there: cells of 500 chunks, the fifth has some that are not.
  expect(await cells("buckets=5")).toEqual([sent, sent, sent, sent, missing]);
  expect(await cells("buckets=1")).toEqual([missing]);
  expect(await cells(`buckets=4&first=${2 * SEGMENT - 2}&count=4`)).toEqual([
    sent,
    sent,
    missing,
    missing,
  ]);
  expect(await cells(`buckets=10&first=${CHUNKS - 1}`)).toEqual([missing]);
});

test("events go on where somebody has stopped, page by page", async () => {
  const id = await made();
  for (let n = 0; n < 7; n++) await harness.store.addEvent(fromHex(id), "noted", { n });
  const seen: number[] = [];
  let cursor: string | null = "";
  while (cursor !== null) {
    const query: string = cursor === "" ? "limit=3" : `limit=3&cursor=${cursor}`;
    const page = (await (await get(`/v1/sessions/${id}/events?${query}`)).json()) as {
      events: { seq: number; type: string; data: { n?: number } }[];
      nextCursor: string | null;
    };
    expect(page.events.length).toBeLessThanOrEqual(3);
    for (const { type, data } of page.events) if (type === "noted") seen.push(Number(data.n));
    cursor = page.nextCursor;
  }
  expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6]);
});

describe("what a session allows", () => {
  const facts = fc.record({
    state: fc.constantFrom(...SESSION_STATES.filter((state) => state !== "paused")),
    hold: fc.constantFrom(...HOLDS),
    mode: fc.constantFrom(...SESSION_MODES),
    owner: fc.constantFrom(...ROLES),
    here: fc.subarray([...ROLES]),
    action: fc.constantFrom(...SESSION_ACTIONS),
  });

  test("is what is then accepted, and what it does not allow is a conflict", async () => {
    const id = await made();
    await fc.assert(
      fc.asyncProperty(facts, async ({ state, hold, mode, here, action, ...rest }) => {
        // The database knows that some cannot be.
        const owner =
          state === "done" || state === "committed" || state === "postcopy"
            ? "leecher"
            : state === "failed"
              ? rest.owner
              : "seeder";
        await harness.database.run((orm) =>
          orm
            .update(session)
            .set({
              state,
              hold,
              mode,
              owner,
              ownerEpoch: owner === "leecher" ? 1 : 0,
              endedAt: isEnded(state) ? new Date() : null,
            })
            .where(eq(session.id, id)),
        );
        const peer = { link: "memory", remoteAddress: "", joinedAtMs: 0 } as const;
        harness.switchboard.sessions.set(id, {
          seeder: here.includes("seeder") ? peer : undefined,
          leecher: here.includes("leecher") ? peer : undefined,
          progress: undefined,
          bytesFrom: { seeder: 0, leecher: 0 },
        });
        const shown = (await (await get(`/v1/sessions/${id}`)).json()) as {
          allowedActions: string[];
        };
        const response = await harness.ask(key, "POST", `/v1/sessions/${id}:${action}`, {});
        if (shown.allowedActions.includes(action)) expect(response.status).toBe(202);
        // One that was cancelled already is answered as it was.
        else
          expect([409, action === "cancel" && state === "cancelled" ? 202 : 409]).toContain(
            response.status,
          );
      }),
      { numRuns: 150 },
    );
  });
});
