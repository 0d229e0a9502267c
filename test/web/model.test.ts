/** What the dashboard says of a session, and how it writes numbers. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";

import type { SessionBody } from "../../relay/app.ts";
import { SESSION_STATES } from "../../relay/protocol/ids.ts";
import { bytes, duration, percent } from "../../web/src/format.ts";
import { overviewOf, quantile } from "../../web/src/model/overview.ts";
import { phasesOf } from "../../web/src/model/phases.ts";
import { hrefOf, parsePlace } from "../../web/src/model/place.ts";
import { attentionOf, confirmationOf, runsAt, verdictOf } from "../../web/src/model/session.ts";
import { filterSessions } from "../../web/src/model/session-list.ts";
import { sessionExample } from "./example.ts";

describe("numbers", () => {
  test("have a unit, and a dash where nothing is known", () => {
    expect([bytes(0), bytes(1023), bytes(1024), bytes(1.5 * 2 ** 40)]).toEqual([
      "0 B",
      "1023 B",
      "1.0 KiB",
      "1.5 TiB",
    ]);
    expect([bytes(null), duration(undefined), percent(NaN)]).toEqual(["–", "–", "–"]);
    expect([duration(0), duration(999.6), duration(59_960), duration(3_600_000)]).toEqual([
      "0 ms",
      "1.0 s",
      "1 min 0 s",
      "1 h 0 min",
    ]);
  });

  test("no count of bytes is shown as 1024 of its unit", () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 2 ** 55, noNaN: true }), (count) => {
        expect(Number.parseFloat(bytes(count))).toBeLessThan(1024);
      }),
    );
  });

  test("nothing is 100 % before it is all", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 40 }), (total) => {
        expect(percent((total - 1) / total)).not.toBe("100.0 %");
        expect(percent(total / total)).toBe("100.0 %");
      }),
    );
  });
});

test("a place and its address say the same", () => {
  const text = fc.string({ unit: "grapheme", maxLength: 30 });
  fc.assert(
    fc.property(
      fc.array(fc.stringMatching(/^[a-z0-9]{1,12}$/), { maxLength: 3 }),
      fc.dictionary(
        fc.stringMatching(/^[a-z]{1,8}$/),
        text.filter((value) => value !== ""),
      ),
      (parts, query) => {
        const path = parts.join("/");
        expect(parsePlace(hrefOf(path, query))).toEqual({ path, query: { ...query } });
      },
    ),
  );
});

describe("a session", () => {
  test("says in every state something, and where the workload runs", () => {
    for (const state of SESSION_STATES) {
      for (const holder of ["seeder", "leecher"] as const) {
        const session = sessionExample({ state, authority: { holder, epoch: 1 } });
        const { sentence } = verdictOf(session);
        expect(sentence).toMatch(/^[A-Z].*\.$/);
        expect(sentence).not.toMatch(/undefined|null|NaN/);
        expect(["source", "destination", "suspended"]).toContain(runsAt(session));
      }
    }
  });

  test("that does not converge says so with both rates, and what to press", () => {
    const session = slow();
    const verdict = verdictOf(session);
    expect(verdict.sentence).toBe(
      "Not converging: the workload dirties 210 MiB/s and 180 MiB/s are sent.",
    );
    expect(verdict.remedies[0]).toMatchObject({ kind: "action", action: "finalize" });
    expect(attentionOf(session)?.rank).toBe(1);
  });

  test("held back by its own limit, it names the limit first", () => {
    const session = { ...slow(), limits: { bytesPerS: 190 * 2 ** 20 } };
    expect(verdictOf(session).remedies[0]).toMatchObject({ kind: "limit", limit: "bytesPerS" });
  });

  test("over its downtime budget it converges and warns", () => {
    const session = sessionExample({
      state: "precopy",
      limits: { downtimeTargetMs: 100 },
      progress: { expectedDowntimeMs: 400 },
    });
    expect(verdictOf(session)).toMatchObject({ tone: "warn" });
    expect(verdictOf(session).sentence).toContain("over the budget of 100 ms");
  });

  test("every action tells its consequence", () => {
    const actions = "start finalize postcopy pause resume cancel recover rotateTickets check";
    for (const action of actions.split(" ")) {
      const { consequence, confirm } = confirmationOf(action, slow());
      expect(consequence.length).toBeGreaterThan(10);
      expect(confirm).not.toBe("");
    }
  });

  test("its phases are in order, and lasted until the next", () => {
    const steps = phasesOf(
      sessionExample({
        state: "postcopy",
        timings: {
          joinedAt: "2026-11-25T10:00:01.000Z",
          startedAt: "2026-11-25T10:00:02.000Z",
          finalizeAt: "2026-11-25T10:00:05.000Z",
          suspendedAt: "2026-11-25T10:00:06.000Z",
          committedAt: "2026-11-25T10:00:06.100Z",
          resumedAt: "2026-11-25T10:00:06.200Z",
        },
      }),
      Date.parse("2026-11-25T10:00:08.200Z"),
    );
    expect(steps.map(({ lastedMs }) => lastedMs)).toEqual([
      1_000,
      1_000,
      3_000,
      1_000,
      100,
      100,
      2_000,
      null,
    ]);
    expect(steps.filter(({ status }) => status === "now").map(({ key }) => key)).toEqual([
      "resumed",
    ]);
  });
});

test("a list is found by words, state and attention", () => {
  const sessions = [
    sessionExample({ id: "a".repeat(32), name: "orders-db", labels: { team: "shop" } }),
    { ...slow(), id: "b".repeat(32), name: "cache" },
    sessionExample({ id: "c".repeat(32), name: "old", state: "done" }),
  ];
  const ids = (filter: Partial<Parameters<typeof filterSessions>[1]>): string =>
    filterSessions(sessions, { text: "", state: "", sort: "name", ...filter })
      .map(({ id }) => id[0])
      .join("");
  expect(ids({})).toBe("bca");
  expect(ids({ text: "TEAM:shop orders" })).toBe("a");
  expect(ids({ state: "live" })).toBe("ba");
  expect(ids({ state: "attention" })).toBe("b");
  expect(ids({ sort: "nonsense" as "name" })).toHaveLength(3);
});

test("an overview begins with the worst", () => {
  const nowMs = Date.parse("2026-11-25T12:00:00.000Z");
  const failed = sessionExample({
    id: "f".repeat(32),
    state: "failed",
    timings: { endedAt: "2026-11-25T11:00:00.000Z" },
  });
  const overview = overviewOf([slow(), failed], nowMs);
  expect(overview.attention.map(({ session }) => session.state)).toEqual(["failed", "precopy"]);
  expect(overview).toMatchObject({ failedToday: 1, doneToday: 0, direct: 1, relayed: 0 });
  expect([quantile([], 0.5), quantile([1, 2, 3, 4], 0.5), quantile([1, 2, 3, 4], 0.95)]).toEqual([
    null,
    2,
    4,
  ]);
});

function slow(): SessionBody {
  return sessionExample({
    state: "precopy",
    progress: {
      dirtyBytesPerS: 210 * 2 ** 20,
      sendBytesPerS: 180 * 2 ** 20,
      convergence: { verdict: "no", ratio: 1.167 },
      etaMs: null,
    },
  });
}
