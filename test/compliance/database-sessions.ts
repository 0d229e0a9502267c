/**
 * What sessions, migrations and their events promise as resources, whatever database is under them.
 *
 * @module
 */
import { eq, sql } from "drizzle-orm";
import { randomBytes } from "node:crypto";

import { beforeAll, describe, expect, test } from "vitest";

import { createApiKeys } from "../../relay/db/api-keys.ts";
import { auditBefore, type Actor } from "../../relay/db/audit.ts";
import type { Database } from "../../relay/db/database.ts";
import { fromHex } from "../../relay/db/hex.ts";
import { createMigration, projectMigrations } from "../../relay/db/migrations.ts";
import { lastProjectEvent, projectEventsAfter } from "../../relay/db/project-events.ts";
import { removeOld } from "../../relay/db/retention.ts";
import { session } from "../../relay/db/schema.ts";
import { createSessionStore, type DatabaseSessionStore } from "../../relay/db/session-store.ts";
import {
  endDeadline,
  projectSessions,
  sessionsPastDeadline,
  type NewSession,
} from "../../relay/db/sessions.ts";
import { relayLimits } from "../../relay/limits.ts";
import { toHex } from "../../relay/protocol/bytes.ts";

const PLAIN: NewSession = {
  name: "a session",
  labels: {},
  mode: "live",
  limits: {},
  ticketLifetimeMs: 600_000,
  createdBy: "test",
};

export function databaseSessionsSuite(
  name: string,
  open: () => Promise<Database>,
  skipReason: string,
): void {
  // oxlint-disable-next-line vitest/valid-title -- the suite runs once for each database
  describe(`${name}: sessions and migrations`, () => {
    let database: Database;
    let store: DatabaseSessionStore;

    beforeAll(async () => {
      if (skipReason !== "") return;
      database = await open();
      store = createSessionStore(database);
      return () => database.close();
    });

    /** Says aloud why it is not run. */
    const promise = (sentence: string, work: () => Promise<void>): void => {
      // oxlint-disable-next-line vitest/valid-title, vitest/expect-expect -- both come from the caller
      test(sentence, async (ctx) => {
        if (skipReason !== "") ctx.skip(skipReason);
        await work();
      });
    };

    async function project(projectName = toHex(randomBytes(8))) {
      const projectId = await createApiKeys(database).project(projectName);
      const by: Actor = { projectId, actor: "key:test", remoteAddress: "", requestId: "r" };
      const sessions = projectSessions(database, projectId);
      const types = async (afterId = 0) =>
        (await projectEventsAfter(database, projectId, afterId, 1_000)).map((event) => event.type);
      const set = (id: string, state: Parameters<typeof store.setState>[1]["state"]) =>
        store.setState(fromHex(id), {
          by: state === "tracking" || state === "precopy" ? "seeder" : "leecher",
          state,
          reason: "",
        });
      return { projectId, by, sessions, types, set };
    }

    promise("every change of a session is an event of its project, in order", async () => {
      const { sessions, types, set, by } = await project();
      const { row } = await sessions.create(PLAIN);
      const id = fromHex(row.id);
      await store.describe(id, "seeder", {
        kind: "describe",
        regionName: "ram",
        regionBytes: 1 << 20,
        chunkBytes: 1 << 16,
        host: "a",
        version: "1",
      });
      await set(row.id, "tracking");
      await set(row.id, "precopy");
      await store.addEvent(id, "roundEnded", { round: 1 });
      expect((await store.commit(id, 3)).committed).toBe(true);
      // Asked again it is no other event.
      expect((await store.commit(id, 3)).committed).toBe(true);
      await set(row.id, "postcopy");
      await set(row.id, "done");
      expect(await sessions.remove(row.id, by)).toBe(true);
      expect(await types()).toEqual([
        "session.created",
        "session.described",
        "session.tracking",
        "session.precopy",
        "session.roundEnded",
        "session.committed",
        "session.resumed",
        "session.done",
        "session.deleted",
      ]);
      expect(await sessions.get(row.id)).toBeUndefined();
    });

    promise("a cancel is one event, also when it is repeated", async () => {
      const { sessions, types } = await project();
      const { row } = await sessions.create(PLAIN);
      const cancel = { by: "api", state: "cancelled", reason: "enough" } as const;
      expect(await store.setState(fromHex(row.id), cancel)).toBe(true);
      expect(await store.setState(fromHex(row.id), cancel)).toBe(true);
      expect(await types()).toEqual(["session.created", "session.cancelled"]);
    });

    // A reader that has seen a number must never miss a lower one.
    promise(
      "events that are written at the same time are seen in the order of their numbers",
      async () => {
        const { sessions, projectId } = await project();
        const rows = await Promise.all(Array.from({ length: 8 }, () => sessions.create(PLAIN)));
        const seen: number[] = [];
        let writing = true;
        const reader = (async () => {
          for (let last = 0; ;) {
            const final = !writing;
            const more = await projectEventsAfter(database, projectId, last, 1_000);
            seen.push(...more.map((event) => event.id));
            last = more.at(-1)?.id ?? last;
            if (final && more.length === 0) return;
          }
        })();
        await Promise.all(
          rows.map(async ({ row }) => {
            const id = fromHex(row.id);
            for (let i = 0; i < 10; i++) await store.addEvent(id, "roundEnded", { round: i });
            await store.commit(id, 1);
          }),
        );
        writing = false;
        await reader;
        const all = await projectEventsAfter(database, projectId, 0, 1_000);
        expect(seen).toEqual(all.map((event) => event.id));
        expect(all).toHaveLength(8 * (1 + 10 + 1));
        expect(await lastProjectEvent(database, projectId)).toBe(all.at(-1)?.id);
      },
    );

    promise("update() changes what is named, if the version is the one that was seen", async () => {
      const { sessions, by, projectId } = await project();
      const { row } = await sessions.create({ ...PLAIN, labels: { a: "1" } });
      expect(await sessions.update(row.id, row.version, { name: "new" }, by)).toBe(true);
      expect(await sessions.update(row.id, row.version, { name: "newer" }, by)).toBe(false);
      const now = await sessions.get(row.id);
      expect(now).toMatchObject({ name: "new", labels: { a: "1" }, version: row.version + 1 });
      const [entry] = await auditBefore(database, projectId, { limit: 1 });
      expect(entry).toMatchObject({
        action: "session.update",
        before: { name: "a session" },
        after: { name: "new" },
      });
      const other = await project();
      expect(await other.sessions.update(row.id, row.version + 1, { name: "x" }, other.by)).toBe(
        false,
      );
    });

    promise("remove() takes only what has ended, and only of its own project", async () => {
      const { sessions, by } = await project();
      const { row } = await sessions.create(PLAIN);
      expect(await sessions.remove(row.id, by)).toBe(false);
      await store.setState(fromHex(row.id), { by: "api", state: "cancelled", reason: "" });
      const other = await project();
      expect(await other.sessions.remove(row.id, other.by)).toBe(false);
      expect(await sessions.remove(row.id, by)).toBe(true);
    });

    promise("list() finds by label, text, peer, time and migration, in both orders", async () => {
      const { sessions } = await project();
      const ids: string[] = [];
      for (const [i, labels] of [{ tier: "db" }, { tier: "db", zone: "a" }, {}].entries()) {
        const peer = i === 2 ? "ab".repeat(32) : undefined;
        const made = await sessions.create({
          ...PLAIN,
          name: `100%_${i}`,
          labels,
          leecherPeerId: peer,
        });
        ids.push(made.row.id);
      }
      const find = async (filter: Parameters<typeof sessions.list>[0]) =>
        (await sessions.list(filter)).map((row) => ids.indexOf(row.id));
      expect(await find({ limit: 9, labels: { tier: "db" }, sort: "createdAt" })).toEqual([0, 1]);
      expect(await find({ limit: 9, labels: { tier: "db", zone: "a" } })).toEqual([1]);
      expect(await find({ limit: 9, text: "0%_2" })).toEqual([2]);
      expect(await find({ limit: 9, text: "0_0" })).toEqual([]);
      expect(await find({ limit: 9, text: ids[1]?.slice(0, 12) ?? "" })).toEqual([1]);
      expect(await find({ limit: 9, peerId: "ab".repeat(32) })).toEqual([2]);
      expect(await find({ limit: 9, since: new Date(Date.now() + 60_000) })).toEqual([]);
      const [first] = await sessions.list({ limit: 1, sort: "createdAt" });
      expect(await find({ limit: 9, sort: "createdAt", after: first })).toEqual([1, 2]);
      expect(await find({ limit: 9, after: first })).toEqual([]);
    });

    promise(
      "a hold is taken and let go once, and a session that starts paused has one",
      async () => {
        const { sessions, types } = await project();
        const { row } = await sessions.create({ ...PLAIN, policy: { startPaused: true } });
        expect(row.hold).toBe("start");
        expect(await store.isHeld?.(fromHex(row.id))).toBe(true);
        const go = { from: "start", to: "", reason: "" } as const;
        expect(await sessions.setHold(row.id, go)).toBe(true);
        expect(await sessions.setHold(row.id, go)).toBe(false);
        expect(await store.isHeld?.(fromHex(row.id))).toBe(false);
        expect(await types()).toEqual(["session.created", "session.started"]);
      },
    );

    promise(
      "sessionsPastDeadline() gives each session once for a while, after it has started",
      async () => {
        const { sessions, set } = await project();
        const limits = { deadlineMs: 1 };
        const { row } = await sessions.create({
          ...PLAIN,
          limits,
          policy: { onDeadline: "cancel" },
        });
        const past = async () =>
          (await sessionsPastDeadline(database, 100)).filter((one) => one.id === row.id);
        expect(await past()).toEqual([]);
        await set(row.id, "tracking");
        await new Promise((resolve) => setTimeout(resolve, 20));
        expect(await past()).toEqual([{ id: row.id, projectId: row.projectId }]);
        expect(await past()).toEqual([]);
        await database.run((orm) =>
          orm.execute(
            sql`update session set deadline_at = now() - interval '1 second' where id = ${row.id}`,
          ),
        );
        expect(await past()).toHaveLength(1);
        await endDeadline(database, row.id);
        expect((await sessions.get(row.id))?.deadlineAt).toBeNull();
      },
    );

    promise(
      "removeOld() takes away what has ended and is old, with what belongs to it",
      async () => {
        const { projectId, sessions } = await project();
        const made = async (days: number, state: "cancelled" | "precopy") => {
          const { row } = await sessions.create(PLAIN);
          const then = sql`now() - ${days} * interval '1 day'`;
          const endedAt = state === "cancelled" ? then : null;
          await database.run((orm) =>
            orm
              .update(session)
              .set({ state, createdAt: then, endedAt })
              .where(eq(session.id, row.id)),
          );
          return row.id;
        };
        const [old, recent, going] = [
          await made(40, "cancelled"),
          await made(5, "cancelled"),
          await made(40, "precopy"),
        ];
        await database.run((orm) =>
          orm.execute(
            sql`update project_event set at = now() - interval '40 days' where subject_id = ${old}`,
          ),
        );
        const removed = await removeOld(database, {
          days: 30,
          auditDays: Number.POSITIVE_INFINITY,
        });
        expect(removed.session).toBeGreaterThanOrEqual(1);
        expect(removed.audit).toBe(0);
        expect(await sessions.get(old)).toBeUndefined();
        expect(await sessions.get(recent)).toBeDefined();
        expect(await sessions.get(going)).toBeDefined();
        const left = await projectEventsAfter(database, projectId, 0, 500);
        expect(left.some(({ subjectId }) => subjectId === old)).toBe(false);
        expect(left.some(({ subjectId }) => subjectId === recent)).toBe(true);
        const again = await removeOld(database, { days: 30, auditDays: 30 });
        expect(again.session).toBe(0);
        const forEver = { days: Number.POSITIVE_INFINITY, auditDays: Number.POSITIVE_INFINITY };
        expect(
          Object.values(await removeOld(database, forEver)).every((count) => count === 0),
        ).toBe(true);
      },
    );

    promise("rotateTickets() makes the tickets that are not used yet worthless", async () => {
      const { sessions } = await project();
      const { row, tickets } = await sessions.create(PLAIN);
      const sessionId = fromHex(row.id);
      const use = (role: "seeder" | "leecher", token: Uint8Array) =>
        store.useTicket({ sessionId, role, token, peerKey: randomBytes(32) });
      await use("seeder", tickets.seeder.token);
      const other = await project();
      expect(await other.sessions.rotateTickets(row.id, 60_000)).toEqual({});
      const made = await sessions.rotateTickets(row.id, 60_000);
      expect(Object.keys(made)).toEqual(["leecher"]);
      await expect(use("leecher", tickets.leecher.token)).rejects.toMatchObject({
        code: "TICKET_UNKNOWN",
      });
      await use("leecher", made.leecher?.token ?? new Uint8Array(32));
    });

    promise(
      "reopen() lets a failed session go on only where the destination owns the region",
      async () => {
        const { sessions, set } = await project();
        const [before, after] = [await sessions.create(PLAIN), await sessions.create(PLAIN)];
        await store.commit(fromHex(after.row.id), 1);
        await set(before.row.id, "failed");
        await set(after.row.id, "failed");
        expect(await sessions.reopen(before.row.id, "")).toBe(false);
        expect(await sessions.reopen(after.row.id, "try")).toBe(true);
        expect(await sessions.get(after.row.id)).toMatchObject({
          state: "postcopy",
          endedAt: null,
        });
        expect(await set(after.row.id, "done")).toBe(true);
      },
    );

    promise("createMigration() makes all of it or nothing", async () => {
      const { sessions, by, projectId, types } = await project();
      const there = await sessions.create(PLAIN);
      const start = await lastProjectEvent(database, projectId);
      const options = { name: "vm 7", sessions: [PLAIN, PLAIN], createdBy: "test", by };
      const bad = createMigration(database, projectId, {
        ...options,
        sessionIds: [there.row.id, "ab".repeat(16)],
      });
      await expect(bad).rejects.toMatchObject({ code: "STATE_CONFLICT" });
      const full = createMigration(database, projectId, {
        ...options,
        bounds: relayLimits({ pendingSessions: 2 }),
      });
      await expect(full).rejects.toMatchObject({ code: "LIMIT_EXCEEDED" });
      const failing = createMigration(database, projectId, {
        ...options,
        alongside: () => Promise.reject(new Error("no order")),
      });
      await expect(failing).rejects.toThrow("no order");
      const migrations = projectMigrations(database, projectId);
      expect(await migrations.list({ limit: 9 })).toEqual([]);
      expect(await sessions.list({ limit: 9 })).toHaveLength(1);
      const made = await createMigration(database, projectId, {
        ...options,
        sessionIds: [there.row.id],
      });
      expect(made.sessions).toHaveLength(2);
      const grouped = await migrations.sessionsOf([made.id]);
      expect(grouped.get(made.id)?.map((row) => row.id)).toEqual([
        there.row.id,
        ...made.sessions.map((one) => one.id).sort(),
      ]);
      expect(await types(start)).toEqual([
        "session.created",
        "session.created",
        "migration.created",
      ]);
      const other = await project();
      expect(await projectMigrations(database, other.projectId).get(made.id)).toBeUndefined();
      expect(await migrations.remove(made.id, by)).toBe(false);
      for (const row of grouped.get(made.id) ?? []) {
        await store.setState(fromHex(row.id), { by: "api", state: "cancelled", reason: "" });
      }
      expect(await migrations.remove(made.id, by)).toBe(true);
      expect(await sessions.get(there.row.id)).toMatchObject({ migrationId: null });
    });
  });
}
