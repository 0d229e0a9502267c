// Migrations as groups: what their sessions make of them, and what is done to all of these at once.
import fc from "fast-check";
import { beforeAll, beforeEach, describe, expect, test } from "vitest";

import { migrationActions, migrationState } from "../../../relay/api/migration-state.ts";
import { SESSION_ACTIONS } from "../../../relay/api/session-state.ts";
import { session } from "../../../relay/db/schema.ts";
import { isEnded, ROLES, SESSION_STATES } from "../../../relay/protocol/ids.ts";
import { eq } from "drizzle-orm";
import { startHarness, type Harness } from "./harness.ts";

let harness: Harness;
let key: string;

beforeAll(async () => {
  harness = await startHarness();
  return () => harness[Symbol.asyncDispose]();
});
beforeEach(async () => void ({ key } = await harness.key("groups")));

interface Answer {
  readonly status: number;
  /** Of a shape that the test itself asserts. */
  // oxlint-disable-next-line typescript/no-explicit-any -- JSON from outside, looked at field by field
  readonly body: any;
}

async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
  const response = await harness.ask(key, method, path, body);
  return {
    status: response.status,
    body: response.status === 204 ? undefined : await response.json(),
  };
}

async function group(
  consistency: "all" | "each" = "all",
): Promise<{ id: string; sessionIds: string[] }> {
  const { status, body } = await ask("POST", "/v1/migrations", {
    name: "vm",
    consistency,
    sessions: [{ name: "ram" }, { name: "disk" }],
  });
  expect(status).toBe(201);
  return body;
}

async function put(id: string, values: Partial<typeof session.$inferInsert>): Promise<void> {
  await harness.database.run((orm) => orm.update(session).set(values).where(eq(session.id, id)));
}

/** Both of its peers are there and copy. */
async function copies(id: string): Promise<void> {
  await put(id, { state: "precopy" });
  const peer = { link: "memory", remoteAddress: "", joinedAtMs: 0 } as const;
  harness.switchboard.sessions.set(id, {
    seeder: peer,
    leecher: peer,
    progress: undefined,
    bytesFrom: { seeder: 0, leecher: 0 },
  });
}

const member = fc.record({
  state: fc.constantFrom(...SESSION_STATES),
  authority: fc.record({ holder: fc.constantFrom(...ROLES), epoch: fc.nat(5) }),
  allowedActions: fc.subarray([...SESSION_ACTIONS]),
});

test("the state of a migration is that of one of its sessions, and ended only if all are", () => {
  fc.assert(
    fc.property(fc.array(member, { minLength: 1, maxLength: 6 }), (members) => {
      const state = migrationState(members);
      const states = members.map((one) => one.state);
      if (state !== "partial") expect(states).toContain(state);
      if (state === "done") expect(states.every((one) => one === "done")).toBe(true);
      if (state === "partial" || state === "cancelled") expect(states.every(isEnded)).toBe(true);
      if (states.includes("failed")) expect(state).toBe("failed");
    }),
  );
});

test("with consistency all nothing is offered that one of the sessions would refuse", () => {
  fc.assert(
    fc.property(fc.array(member, { maxLength: 6 }), (members) => {
      const waiting = members.filter(
        (one) => !isEnded(one.state) && one.authority.holder === "seeder",
      );
      for (const action of migrationActions(members, { consistency: "all" })) {
        expect(waiting.length).toBeGreaterThan(0);
        for (const one of waiting) expect(one.allowedActions).toContain(action);
      }
      if (members.some((one) => one.authority.holder === "leecher"))
        expect(migrationActions(members, { consistency: "all" })).not.toContain("cancel");
    }),
  );
});

describe("a group of sessions", () => {
  test("is made with tickets for each, is listed, and shows what they are", async () => {
    const { body } = await ask("POST", "/v1/migrations", {
      name: "vm",
      labels: { rack: "7" },
      sessions: [{ name: "ram" }, { name: "disk" }],
    });
    expect(body.sessions).toHaveLength(2);
    expect(body.sessions.map((one: { session: { name: string } }) => one.session.name)).toEqual([
      "ram",
      "disk",
    ]);
    for (const { tickets } of body.sessions)
      expect(tickets.seeder.token).not.toBe(tickets.leecher.token);
    const { body: shown } = await ask("GET", `/v1/migrations/${body.id}`);
    expect(shown).toMatchObject({
      name: "vm",
      labels: { rack: "7" },
      state: "pending",
      policy: { consistency: "all" },
      sessionIds: body.sessionIds,
      allowedActions: ["cancel"],
      downtimeMs: null,
    });
    const { body: page } = await ask("GET", "/v1/migrations?limit=1");
    expect(page.migrations[0].id).toBe(body.id);
    expect((await ask("GET", `/v1/sessions?migration=${body.id}`)).body.sessions).toHaveLength(2);
  });

  test("takes sessions that are there, each in one migration only", async () => {
    const { body: made } = await ask("POST", "/v1/sessions", { name: "lone" });
    const sessionIds = [made.session.id];
    expect((await ask("POST", "/v1/migrations", { sessionIds })).status).toBe(201);
    expect((await ask("POST", "/v1/migrations", { sessionIds })).status).toBe(409);
    expect((await ask("POST", "/v1/migrations", {})).status).toBe(422);
  });

  test("is finalized when all can be, and not before", async () => {
    const { id, sessionIds } = await group();
    const [first = "", second = ""] = sessionIds;
    await copies(first);
    const early = await ask("POST", `/v1/migrations/${id}:finalize`, {});
    expect(early.status).toBe(409);
    expect(early.body).toMatchObject({ code: "STATE_CONFLICT", currentState: "pending" });
    await copies(second);
    harness.switchboard.commands.length = 0;
    const { status, body } = await ask("POST", `/v1/migrations/${id}:finalize`, {
      reason: "window",
    });
    expect(status).toBe(202);
    expect(body.outcomes).toHaveLength(2);
    for (const outcome of body.outcomes) expect(outcome).toMatchObject({ done: true, detail: "" });
    expect(
      harness.switchboard.commands.map(({ sessionId, command }) => [sessionId, command]),
    ).toEqual([
      [first, "finalize"],
      [second, "finalize"],
    ]);
  });

  test("with consistency each: one that cannot is told, the other is finalized", async () => {
    const { id, sessionIds } = await group("each");
    await copies(sessionIds[1] ?? "");
    const { status, body } = await ask("POST", `/v1/migrations/${id}:finalize`, {});
    expect(status).toBe(202);
    expect(body.outcomes.map((one: { done: boolean }) => one.done)).toEqual([false, true]);
    expect(body.outcomes[0].detail).toMatch(/pending/);
  });

  test("is cancelled as a whole, unless one has moved", async () => {
    const moved = await group();
    await put(moved.sessionIds[0] ?? "", { state: "committed", owner: "leecher" });
    expect((await ask("POST", `/v1/migrations/${moved.id}:cancel`, {})).status).toBe(409);
    const { id } = await group();
    const { body } = await ask("POST", `/v1/migrations/${id}:cancel`, {});
    expect(body.migration.state).toBe("cancelled");
    expect(body.migration.allowedActions).toEqual([]);
  });

  test("goes when its sessions are over, by its version, and they stay", async () => {
    const { id, sessionIds } = await group();
    expect((await ask("DELETE", `/v1/migrations/${id}`)).status).toBe(409);
    await ask("POST", `/v1/migrations/${id}:cancel`, {});
    const response = await harness.app.request(`/v1/migrations/${id}`, {
      method: "DELETE",
      headers: { authorization: `Bearer ${key}`, "if-match": '"1"' },
    });
    expect(response.status).toBe(412);
    expect((await ask("DELETE", `/v1/migrations/${id}`)).status).toBe(204);
    expect((await ask("GET", `/v1/migrations/${id}`)).status).toBe(404);
    expect((await ask("GET", `/v1/sessions/${sessionIds[0]}`)).body).toMatchObject({
      state: "cancelled",
      migrationId: null,
    });
  });

  test("has no other actions, and none by a name that is no id", async () => {
    const { id } = await group();
    expect((await ask("POST", `/v1/migrations/${id}:postcopy`, {})).status).toBe(404);
    expect((await ask("POST", "/v1/migrations/x:cancel", {})).status).toBe(404);
    expect((await ask("GET", "/v1/migrations/x")).status).toBe(404);
  });
});
