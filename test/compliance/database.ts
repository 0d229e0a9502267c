/**
 * What a session store promises, whatever database is under it.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import { eq } from "drizzle-orm";
import { beforeAll, describe, expect, test } from "vitest";

import { createApiKeys } from "../../relay/db/api-keys.ts";
import type { Database } from "../../relay/db/database.ts";
import { fromHex } from "../../relay/db/hex.ts";
import {
  projectShares,
  projectUse,
  spentProjects,
  usageByDay,
} from "../../relay/db/project-limits.ts";
import { project as projectTable, session as sessionTable } from "../../relay/db/schema.ts";
import { createSessionStore, type DatabaseSessionStore } from "../../relay/db/session-store.ts";
import {
  abandonedSessions,
  projectSessions,
  type NewTicket,
  type ProjectSessions,
} from "../../relay/db/sessions.ts";
import type { DescribeFrame, Progress } from "../../relay/protocol/frame.ts";
import { relayLimits } from "../../relay/limits.ts";
import { toHex } from "../../relay/protocol/bytes.ts";
import { PROGRESS_FIELDS } from "../../relay/protocol/frame.ts";
import type { Role } from "../../relay/protocol/ids.ts";

const SEGMENT = 1024;

/** A session, its tickets, and what the store says of it. */
interface Made {
  readonly id: Uint8Array;
  readonly hex: string;
  readonly tickets: Readonly<Record<Role, NewTicket>>;
}

export function databaseSuite(
  name: string,
  open: () => Promise<Database> | undefined,
  skipReason: string,
): void {
  // oxlint-disable-next-line vitest/valid-title -- the suite runs once for each database
  describe(name, () => {
    let database: Database;
    let store: DatabaseSessionStore;
    let sessions: ProjectSessions;

    beforeAll(async () => {
      if (skipReason !== "") return;
      const opened = await open();
      if (opened === undefined) throw new Error("no database was opened");
      database = opened;
      store = createSessionStore(database);
      sessions = projectSessions(database, await createApiKeys(database).project("compliance"));
      return async () => {
        await store.index.settled();
        await database.close();
      };
    });

    /** Says aloud why it is not run. */
    const promise = (sentence: string, work: () => Promise<void>): void => {
      // oxlint-disable-next-line vitest/valid-title, vitest/expect-expect -- both come from the caller
      test(sentence, async (ctx) => {
        if (skipReason !== "") ctx.skip(skipReason);
        await work();
      });
    };

    async function make(ticketLifetimeMs = 600_000): Promise<Made> {
      const { row, tickets } = await sessions.create({
        name: "a session",
        labels: {},
        mode: "live",
        limits: {},
        ticketLifetimeMs,
        createdBy: "test",
      });
      return { id: fromHex(row.id), hex: row.id, tickets };
    }

    const use = (
      made: Made,
      role: Role,
      peerKey = randomBytes(32),
      token = made.tickets[role].token,
    ) => store.useTicket({ sessionId: made.id, role, token, peerKey });

    const code = (work: Promise<unknown>): Promise<unknown> =>
      work.then(
        () => "resolved",
        (error: unknown) =>
          typeof error === "object" && error !== null && "code" in error ? error.code : error,
      );

    const state = async (made: Made) => (await sessions.get(made.hex))?.state;

    promise("useTicket() binds a role to a key, and says the same when asked again", async () => {
      const made = await make();
      const peerKey = randomBytes(32);
      const first = await use(made, "seeder", peerKey);
      expect(first).toMatchObject({
        sessionId: made.id,
        owner: "seeder",
        ownerEpoch: 0,
        state: "pending",
      });
      expect(await use(made, "seeder", peerKey)).toEqual(first);
      expect(await code(use(made, "seeder"))).toBe("TICKET_USED");
    });

    promise(
      "useTicket() tells apart a wrong token, the other role's, a late one, an ended session",
      async () => {
        const made = await make();
        expect(await code(use(made, "seeder", randomBytes(32), randomBytes(32)))).toBe(
          "TICKET_UNKNOWN",
        );
        expect(await code(use({ ...made, id: randomBytes(16) }, "seeder"))).toBe("TICKET_UNKNOWN");
        const other = await make();
        expect(await code(use(made, "seeder", randomBytes(32), other.tickets.seeder.token))).toBe(
          "TICKET_UNKNOWN",
        );
        expect(await code(use(made, "seeder", randomBytes(32), made.tickets.leecher.token))).toBe(
          "TICKET_WRONG_ROLE",
        );
        const late = await make(1);
        await new Promise((resolve) => setTimeout(resolve, 20));
        expect(await code(use(late, "seeder"))).toBe("TICKET_EXPIRED");
        const ended = await make();
        await store.setState(ended.id, { by: "api", state: "cancelled", reason: "" });
        expect(await code(use(ended, "seeder"))).toBe("SESSION_ENDED");
      },
    );

    promise("useTicket() by 50 keys at once lets exactly one in", async () => {
      const made = await make();
      const outcomes = await Promise.all(
        Array.from({ length: 50 }, () => code(use(made, "leecher"))),
      );
      expect(outcomes.filter((outcome) => outcome === "resolved")).toHaveLength(1);
      expect(outcomes.filter((outcome) => outcome === "TICKET_USED")).toHaveLength(49);
    });

    promise("useTicket() outlives its expiry once used", async () => {
      const made = await make(1_000);
      const peerKey = randomBytes(32);
      await use(made, "seeder", peerKey);
      await new Promise((resolve) => setTimeout(resolve, 1_100));
      expect(await code(use(made, "seeder", peerKey))).toBe("resolved");
      expect(await code(use(made, "leecher"))).toBe("TICKET_EXPIRED");
    });

    promise(
      "rejoin() knows the key that used the ticket, in its role, and tells how the session ended",
      async () => {
        const made = await make();
        const peerKey = randomBytes(32);
        const again = (role: Role, key: Uint8Array) =>
          code(store.rejoin({ sessionId: made.id, role, peerKey: key }));
        expect(await again("seeder", peerKey)).toBe("PEER_UNKNOWN");
        await use(made, "seeder", peerKey);
        expect(await again("seeder", peerKey)).toBe("resolved");
        expect(await again("leecher", peerKey)).toBe("PEER_UNKNOWN");
        expect(await again("seeder", randomBytes(32))).toBe("PEER_UNKNOWN");
        await store.setState(made.id, { by: "seeder", state: "failed", reason: "disk full" });
        const back = await store.rejoin({ sessionId: made.id, role: "seeder", peerKey });
        expect(back).toMatchObject({ owner: "seeder", state: "failed" });
      },
    );

    promise("commit() by 50 epochs at once makes exactly one of them the owner's", async () => {
      const made = await make();
      const outcomes = await Promise.all(
        Array.from({ length: 50 }, (_, at) => store.commit(made.id, at + 1)),
      );
      const winners = outcomes.filter((outcome) => outcome.committed);
      expect(winners).toHaveLength(1);
      const epochs = new Set(outcomes.map((outcome) => outcome.ownerEpoch));
      expect(epochs).toEqual(new Set([winners[0]?.ownerEpoch]));
      expect(await state(made)).toBe("committed");
      const events = await sessions.events(made.hex, 0, 100);
      expect(events.map((event) => event.type)).toEqual(["committed"]);
    });

    promise("commit() says the same when asked again, and owner() agrees", async () => {
      const made = await make();
      const expected = { committed: true, owner: "leecher", ownerEpoch: 7, state: "committed" };
      expect(await store.commit(made.id, 7)).toEqual(expected);
      expect(await store.commit(made.id, 7)).toEqual(expected);
      expect(await store.commit(made.id, 8)).toEqual({ ...expected, committed: false });
      expect(await store.owner(made.id)).toEqual(expected);
      const never = await make();
      expect(await store.commit(never.id, 0)).toMatchObject({ committed: false, owner: "seeder" });
      expect(await code(store.commit(randomBytes(16), 1))).toBe("NOT_FOUND");
      expect(await code(store.owner(randomBytes(16)))).toBe("NOT_FOUND");
    });

    promise("commit() takes an epoch of 32 bits whole", async () => {
      const made = await make();
      expect(await store.commit(made.id, 0xffff_ffff)).toMatchObject({
        committed: true,
        ownerEpoch: 0xffff_ffff,
      });
    });

    promise("commit() and a cancel at once end with one of them, never both", async () => {
      for (let round = 0; round < 20; round++) {
        const made = await make();
        const cancel = () => store.setState(made.id, { by: "api", state: "cancelled", reason: "" });
        const commit = () => store.commit(made.id, 1);
        const [first, second] = await Promise.all(
          round % 2 === 0 ? [commit(), cancel()] : [cancel(), commit()],
        );
        const committed = [first, second].some((it) => typeof it === "object" && it.committed);
        const cancelled = [first, second].includes(true);
        expect([committed, cancelled].filter(Boolean)).toHaveLength(1);
        expect(await store.owner(made.id)).toMatchObject(
          committed
            ? { owner: "leecher", state: "committed" }
            : { owner: "seeder", ownerEpoch: 0, state: "cancelled" },
        );
      }
    });

    promise("setState() keeps state and authority in step", async () => {
      const made = await make();
      const set = (to: Parameters<typeof store.setState>[1]["state"]) =>
        store.setState(made.id, { by: "leecher", state: to, reason: "" });
      expect(await set("joined")).toBe(true);
      expect(await state(made)).toBe("pending");
      await use(made, "seeder");
      await use(made, "leecher");
      expect(await set("joined")).toBe(true);
      expect(await state(made)).toBe("joined");
      expect(await set("precopy")).toBe(true);
      // A peer that reconnects is no step back.
      expect(await set("joined")).toBe(true);
      expect(await state(made)).toBe("precopy");
      expect(await set("postcopy")).toBe(false);
      expect(await set("done")).toBe(false);
      await store.commit(made.id, 1);
      expect(await set("cancelled")).toBe(false);
      expect(await set("precopy")).toBe(false);
      expect(await set("committed")).toBe(true);
      expect(await set("postcopy")).toBe(true);
      expect(await set("done")).toBe(true);
      expect(await set("done")).toBe(true);
      expect(await set("failed")).toBe(false);
      const row = await sessions.get(made.hex);
      expect(row?.endedAt).toBeInstanceOf(Date);
      const { joinedAt, committedAt, resumedAt, doneAt } = row?.times ?? {};
      for (const at of [joinedAt, committedAt, resumedAt, doneAt]) {
        expect(Date.parse(at ?? "")).toBeGreaterThan(0);
      }
      const events = await sessions.events(made.hex, 0, 100);
      expect(events.map((event) => event.seq)).toEqual(events.map((_, at) => at + 1));
      expect(events.map((event) => event.type)).toEqual([
        "joined",
        "joined",
        "precopy",
        "joined",
        "committed",
        "resumed",
        "done",
      ]);
    });

    promise(
      "setState() lets the leecher finish whatever the seeder says after the commit",
      async () => {
        const made = await make();
        const fail = (by: Role) => store.setState(made.id, { by, state: "failed", reason: "gone" });
        await use(made, "leecher");
        await store.commit(made.id, 1);
        expect(await fail("seeder")).toBe(true);
        expect(await state(made)).toBe("committed");
        expect((await sessions.get(made.hex))?.endedAt).toBeNull();
        expect(await fail("leecher")).toBe(true);
        expect(await state(made)).toBe("failed");
        expect(await store.owner(made.id)).toMatchObject({ owner: "leecher", ownerEpoch: 1 });
      },
    );

    promise("abandonedSessions() are those that wait for a ticket that is over", async () => {
      const [fresh, late, half] = await Promise.all([make(), make(300), make(300)]);
      await use(half, "seeder");
      const both = await make(300);
      await use(both, "seeder");
      await use(both, "leecher");
      await new Promise((resolve) => setTimeout(resolve, 350));
      const found = new Set(await abandonedSessions(database, 1000));
      const given = [fresh, late, half, both].map((made) => found.has(made.hex));
      expect(given).toEqual([false, true, true, false]);
    });

    promise("setState() and addEvent() store a peer's text as one harmless line", async () => {
      const made = await make();
      const reason = `\u0000\u001b[31m${"x".repeat(1000)}\nand more \ud800`;
      expect(await store.setState(made.id, { by: "seeder", state: "failed", reason })).toBe(true);
      const row = await sessions.get(made.hex);
      expect(row?.reasonCode).toBe("FAILED_BY_SEEDER");
      // oxlint-disable-next-line no-control-regex -- none of these may be there
      expect(row?.reasonMessage).not.toMatch(/[\u0000-\u001f\ud800]/);
      expect(row?.reasonMessage.length).toBeLessThanOrEqual(256);
      await store.addEvent(made.id, "note", { text: "a\u0000b", count: 3, good: true });
      const [, note] = await sessions.events(made.hex, 0, 10);
      expect(note?.data).toEqual({ text: "a b", count: 3, good: true });
    });

    promise("addEvent() at once from many numbers events without gap or repetition", async () => {
      const made = await make();
      await Promise.all(
        Array.from({ length: 30 }, (_, at) => store.addEvent(made.id, "tick", { at })),
      );
      const events = await sessions.events(made.hex, 0, 100);
      expect(events.map((event) => event.seq)).toEqual(
        Array.from({ length: 30 }, (_, at) => at + 1),
      );
    });

    promise("saveProgress(), describe() and addUsage() show in the session", async () => {
      const made = await make();
      // All fields are numbers, and the list of them is complete.
      const progress = Object.fromEntries(
        PROGRESS_FIELDS.map((field, at) => [field, at]),
      ) as unknown as Progress;
      await store.saveProgress(made.id, progress);
      await store.describe(made.id, "seeder", described(10 * 65_536 + 1));
      await store.describe(made.id, "leecher", { ...described(1), host: "b" });
      const paired = { pairedMs: 2_400, path: "websocket" };
      await store.addUsage(made.id, { seeder: 2 ** 40, leecher: 5, ...paired });
      await store.addUsage(made.id, { seeder: 1, leecher: 0, ...paired });
      expect(await sessions.get(made.hex)).toMatchObject({
        progress,
        regionName: "db",
        regionBytes: 10 * 65_536 + 1,
        chunkCount: 11,
        seeder: { host: "a", version: "1" },
        leecher: { host: "b", version: "1" },
        bytesFromSeeder: 2 ** 40 + 1,
        bytesFromLeecher: 5,
      });
      expect(await code(store.describe(made.id, "seeder", described(99)))).toBe("FRAME_UNEXPECTED");
    });

    promise("addUsage() counts a project's day by the kind of link, and its month", async () => {
      const { id: name } = await make();
      const project = await createApiKeys(database).project(`month ${toHex(name)}`);
      const { row } = await projectSessions(database, project).create({
        name: "",
        labels: {},
        mode: "live",
        limits: {},
        ticketLifetimeMs: 60_000,
        createdBy: "test",
      });
      const id = fromHex(row.id);
      const moved = { seeder: 700, leecher: 5, pairedMs: 2_400, path: "websocket" };
      for (let i = 0; i < 3; i++) await store.addUsage(id, moved);
      await store.addUsage(id, { ...moved, seeder: 90, path: "webtransport" });
      const day = new Date().toISOString().slice(0, 10);
      const range = { from: "2000-01-01", to: "2999-01-01" };
      expect(await usageByDay(database, project, range)).toMatchObject([
        { path: "websocket", bytes: 2_115, sessionSeconds: 6 },
        { path: "webtransport", bytes: 95, sessionSeconds: 2 },
      ]);
      expect(await usageByDay(database, project, { from: day, to: "2999-01-01" })).toHaveLength(2);
      expect((await projectUse(database, project)).use).toMatchObject({
        relayedBytesPerMonth: 2_210,
        sessions: 1,
        pendingSessions: 1,
        peers: 0,
        apiKeys: 0,
        webhooks: 0,
      });
      const spent = await spentProjects(database, relayLimits({ relayedBytesPerMonth: 2_210 }));
      expect(spent.get(project)).toBe(2_210);
      const notYet = await spentProjects(database, relayLimits({ relayedBytesPerMonth: 2_211 }));
      expect(notYet.has(project)).toBe(false);
    });

    promise("create() counts a project's own bounds, with many at once", async () => {
      const { id: name } = await make();
      const project = await createApiKeys(database).project(`bounds ${toHex(name)}`);
      await database.run((orm) =>
        orm
          .update(projectTable)
          .set({ limits: { sessions: 3 } })
          .where(eq(projectTable.id, project)),
      );
      const attempts = await Promise.allSettled(
        Array.from({ length: 8 }, () =>
          projectSessions(database, project).create({
            name: "",
            labels: {},
            mode: "live",
            limits: {},
            ticketLifetimeMs: 60_000,
            createdBy: "test",
          }),
        ),
      );
      const refused = attempts.filter((one) => one.status === "rejected");
      expect(refused).toHaveLength(5);
      for (const { reason } of refused) {
        expect(reason).toMatchObject({
          code: "LIMIT_EXCEEDED",
          details: { limitName: "sessions", limit: 3, retryAfterS: 60 },
        });
      }
    });

    promise("useTicket() and rejoin() say how much of the relay a session may have", async () => {
      const made = await make();
      const [row] = await database.run((orm) =>
        orm
          .update(sessionTable)
          .set({ limits: { bytesPerS: 7_000 } })
          .where(eq(sessionTable.id, made.hex))
          .returning({ projectId: sessionTable.projectId }),
      );
      const projectId = row?.projectId ?? "";
      await database.run((orm) =>
        orm
          .update(projectTable)
          .set({ limits: { relayedBytesPerS: 9_000, relayWeight: 3 } })
          .where(eq(projectTable.id, projectId)),
      );
      const peerKey = new Uint8Array(32).fill(9);
      const { token } = made.tickets.seeder;
      const bounds = {
        projectId,
        bytesPerS: 7_000,
        project: { bytesPerS: 9_000, weight: 3 },
      };
      const joined = await store.useTicket({ sessionId: made.id, role: "seeder", token, peerKey });
      expect(joined.bounds).toEqual(bounds);
      const back = await store.rejoin({ sessionId: made.id, role: "seeder", peerKey });
      expect(back.bounds).toEqual(bounds);
      const shares = await projectShares(database, [projectId], relayLimits());
      expect(shares.get(projectId)).toEqual(bounds.project);
      await database.run((orm) =>
        orm.update(projectTable).set({ limits: {} }).where(eq(projectTable.id, projectId)),
      );
    });

    promise("a session of another project is not there", async () => {
      const made = await make();
      const other = projectSessions(database, await createApiKeys(database).project("other"));
      expect(await other.get(made.hex)).toBeUndefined();
      expect(await other.getMany([made.hex])).toEqual([]);
      expect(await other.events(made.hex, 0, 10)).toEqual([]);
      expect(await other.list({ limit: 10 })).toEqual([]);
    });

    async function described_(chunkCount: number): Promise<Made> {
      const made = await make();
      await store.describe(made.id, "seeder", described(chunkCount * 65_536));
      return made;
    }

    const read = async (made: Made, first: number, count: number): Promise<(number | null)[]> => {
      const found = await store.index.read(made.id, first, count);
      return found.map((hash) => {
        if (hash === null) return null;
        expect(new Set(hash).size).toBe(1);
        return hash[0] ?? null;
      });
    };

    promise("index.read() puts deltas over the base, by epoch and then by order", async () => {
      const made = await described_(SEGMENT + 3);
      await store.index.putSegment(made.id, 1, 0, hashes(SEGMENT, 1));
      await store.index.appendDelta(made.id, delta([5, 2, 22], [6, 2, 22], [SEGMENT + 1, 2, 22]));
      await store.index.appendDelta(made.id, delta([6, 3, 33]));
      expect(await read(made, 4, 4)).toEqual([1, 22, 33, 1]);
      expect(await read(made, SEGMENT - 1, 4)).toEqual([1, null, 22, null]);
      // The base of a segment may come after a delta of it.
      await store.index.putSegment(made.id, 1, 1, hashes(3, 1));
      expect(await read(made, SEGMENT - 1, 4)).toEqual([1, 1, 22, 1]);
      // Said again, and said late: nothing changes.
      await store.index.putSegment(made.id, 1, 0, hashes(SEGMENT, 9));
      await store.index.appendDelta(made.id, delta([6, 3, 33]));
      await store.index.appendDelta(made.id, delta([6, 2, 22]));
      expect(await read(made, 4, 4)).toEqual([1, 22, 33, 1]);
      // Newer than the deltas: they no longer count.
      await store.index.putSegment(made.id, 5, 0, hashes(SEGMENT, 50));
      expect(await read(made, 4, 4)).toEqual([50, 50, 50, 50]);
      expect(await read(made, 0, 0)).toEqual([]);
    });

    promise(
      "index.fold() changes nothing that can be read, and keeps deltas without a base",
      async () => {
        const made = await described_(3 * SEGMENT + 7);
        await store.index.putSegment(made.id, 1, 0, hashes(SEGMENT, 1));
        await store.index.putSegment(made.id, 1, 3, hashes(7, 1));
        await store.index.appendDelta(
          made.id,
          delta([0, 2, 20], [SEGMENT, 2, 21], [3 * SEGMENT + 6, 2, 22]),
        );
        await store.index.appendDelta(made.id, delta([0, 3, 30], [2 * SEGMENT, 3, 31]));
        const places = [0, 1, SEGMENT, 2 * SEGMENT, 3 * SEGMENT, 3 * SEGMENT + 6] as const;
        const all = async () => (await Promise.all(places.map((at) => read(made, at, 1)))).flat();
        const before = await all();
        expect(before).toEqual([30, 1, 21, 31, 1, 22]);
        expect(await store.index.fold(made.id)).toBe(true);
        expect(await all()).toEqual(before);
        expect(await store.index.fold(made.id)).toBe(true);
        expect(await all()).toEqual(before);
        // A hash that was folded in still has its epoch.
        await store.index.putSegment(made.id, 2, 0, hashes(SEGMENT, 60));
        expect(await read(made, 0, 2)).toEqual([30, 60]);
        await store.index.appendDelta(made.id, delta([0, 2, 99], [1, 3, 61]));
        expect(await read(made, 0, 2)).toEqual([30, 61]);
        const whole: number[] = [];
        for await (const part of store.index.stream(made.id)) {
          for (let at = 0; at < part.length; at += 32) whole.push(part[at] ?? -1);
        }
        expect(whole).toHaveLength(3 * SEGMENT + 7);
        expect(places.map((at) => whole[at])).toEqual([30, 61, 21, 31, 1, 22]);
      },
    );

    promise("index: writers at work during folds lose nothing", async () => {
      const segments = 4;
      const made = await described_(segments * SEGMENT);
      for (let at = 0; at < segments - 1; at++) {
        await store.index.putSegment(made.id, 1, at, hashes(SEGMENT, 1));
      }
      const expected = new Map<number, number>();
      const append = async (writer: number): Promise<void> => {
        for (let epoch = 2; epoch < 12; epoch++) {
          // Each writer has chunks of its own, so that what must be read is known.
          const entries = Array.from({ length: 20 }, (_, at) => {
            const chunk = (at * 197 + epoch * 31) % SEGMENT;
            return [chunk * segments + writer, epoch, (epoch * 7 + at) % 256] as const;
          });
          await store.index.appendDelta(made.id, delta(...entries));
          for (const [chunk, , value] of entries) expected.set(chunk, value);
        }
      };
      const fold = async (): Promise<void> => {
        for (let round = 0; round < 4; round++) await store.index.fold(made.id);
      };
      const late = store.index.putSegment(made.id, 1, segments - 1, hashes(SEGMENT, 1));
      await Promise.all([append(0), append(1), append(2), fold(), late]);
      const found = await read(made, 0, segments * SEGMENT);
      for (const [chunk, value] of found.entries()) {
        expect([chunk, value]).toEqual([chunk, expected.get(chunk) ?? 1]);
      }
    });

    promise("index: deltas that have grown are folded without being asked", async () => {
      const made = await described_(SEGMENT);
      await store.index.putSegment(made.id, 1, 0, hashes(SEGMENT, 1));
      for (let epoch = 2; epoch < 6; epoch++) {
        await store.index.appendDelta(
          made.id,
          delta(...Array.from({ length: SEGMENT }, (_, at) => [at, epoch, epoch] as const)),
        );
      }
      await store.index.settled();
      const [row] = await database.query(
        {
          name: "test_region",
          text: "select base_gen, delta_bytes from region where session_id = $1",
        },
        [made.hex],
      );
      expect(Number(row?.["base_gen"])).toBeGreaterThan(0);
      expect(Number(row?.["delta_bytes"])).toBeLessThan(4 * SEGMENT * 40);
      expect(await read(made, 0, 3)).toEqual([5, 5, 5]);
    });

    promise("index: what does not fit the region is refused", async () => {
      const made = await described_(SEGMENT + 3);
      const put = (segment: number, count: number) =>
        code(store.index.putSegment(made.id, 1, segment, hashes(count, 1)));
      expect(await put(0, 3)).toBe("FRAME_MALFORMED");
      expect(await put(1, 4)).toBe("FRAME_MALFORMED");
      expect(await put(2, 1)).toBe("FRAME_MALFORMED");
      expect(await put(0, SEGMENT + 1)).toBe("FRAME_MALFORMED");
      expect(await code(store.index.putSegment(made.id, 1, 0, new Uint8Array(33)))).toBe(
        "FRAME_MALFORMED",
      );
      expect(await code(store.index.appendDelta(made.id, delta([SEGMENT + 3, 1, 1])))).toBe(
        "FRAME_MALFORMED",
      );
      expect(await code(store.index.appendDelta(made.id, new Uint8Array(41)))).toBe(
        "FRAME_MALFORMED",
      );
      expect(await code(store.index.setRoot(made.id, 1, new Uint8Array(31)))).toBe(
        "FRAME_MALFORMED",
      );
      const without = await make();
      expect(await code(store.index.putSegment(without.id, 1, 0, hashes(1, 1)))).toBe("NOT_FOUND");
      expect(await code(store.index.read(without.id, 0, 1))).toBe("NOT_FOUND");
    });

    promise("index.setRoot() keeps the newest", async () => {
      const made = await described_(1);
      await store.index.setRoot(made.id, 2, new Uint8Array(32).fill(2));
      await store.index.setRoot(made.id, 1, new Uint8Array(32).fill(1));
      expect((await sessions.get(made.hex))?.rootHash).toEqual(new Uint8Array(32).fill(2));
    });

    promise(
      "a transaction that throws leaves nothing, and ours comes through as it is",
      async () => {
        const made = await make();
        const error = await database
          .queryTransaction(async (query) => {
            await query(
              { name: "test_rename", text: "update session set name = 'changed' where id = $1" },
              [made.hex],
            );
            throw new Error("no");
          })
          .catch((thrown: unknown) => thrown);
        expect(error).toMatchObject({ code: "DATABASE_UNAVAILABLE" });
        expect((await sessions.get(made.hex))?.name).toBe("a session");
        const broken = { name: "test_broken", text: "select nothing from nowhere" };
        expect(await code(database.query(broken, []))).toBe("INTERNAL");
        await database.ping();
      },
    );
  });
}

function described(regionBytes: number): DescribeFrame {
  return {
    kind: "describe",
    regionName: "db",
    regionBytes,
    chunkBytes: 65_536,
    host: "a",
    version: "1",
  };
}

/** Hashes that are one byte repeated, to be told apart at a glance. */
function hashes(count: number, value: number): Uint8Array {
  return new Uint8Array(count * 32).fill(value);
}

/** Entries of chunk, epoch and hash. */
function delta(...entries: (readonly [chunk: number, epoch: number, value: number])[]): Uint8Array {
  const bytes = new Uint8Array(entries.length * 40);
  const view = new DataView(bytes.buffer);
  for (const [at, [chunk, epoch, value]] of entries.entries()) {
    view.setUint32(at * 40, chunk, true);
    view.setUint32(at * 40 + 4, epoch, true);
    bytes.fill(value, at * 40 + 8, at * 40 + 40);
  }
  return bytes;
}
