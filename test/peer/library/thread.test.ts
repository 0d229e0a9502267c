/** A migration's thread that ends in another way than it should. */
import type * as threads from "node:worker_threads";

import { expect, test, vi } from "vitest";
import type { LibraryEvent, LeechSetup } from "../../../peer/library/messages.ts";
import { MigrationThread } from "../../../peer/library/thread.ts";
import { unpackError } from "../../../peer/library/thrown.ts";

/** What the thread runs in place of a migration. */
const program = vi.hoisted(() => ({ text: "" }));

vi.mock("node:worker_threads", async (original) => {
  const real = await original<typeof threads>();
  class Worker extends real.Worker {
    constructor(_file: URL, options: object) {
      super(program.text, { ...options, eval: true });
    }
  }
  return { ...real, Worker };
});

const SETUP: LeechSetup = {
  role: "leecher",
  link: "auto",
  path: "auto",
  stateDirectory: undefined,
  argv: [],
  cwd: "/",
  hooks: [],
  hookTimeoutMs: 1_000,
  ticket: "",
  mode: "hybrid",
  finalize: { kind: "auto" },
  downtimeBudgetMs: 1,
  dataStreams: 1,
  exported: false,
};

function start(text: string, onEvent: (event: LibraryEvent) => void = () => undefined) {
  program.text = `const { parentPort } = require("node:worker_threads");\n${text}`;
  return new MigrationThread({
    setup: SETUP,
    onEvent,
    onProgress: () => undefined,
    onAsk: () => Promise.reject(new RangeError("there is no such thing here")),
  });
}

async function failureOf(thread: MigrationThread): Promise<Error> {
  const outcome = await thread.ended;
  if (outcome.ok) throw new Error("it did not fail");
  return unpackError(outcome.error);
}

test.each([
  [
    "throws",
    `setTimeout(() => { throw new TypeError("a bug") }, 5); parentPort.on("message", () => 0);`,
    /a bug/,
  ],
  [
    "rejects",
    `Promise.reject(new Error("forgotten")); parentPort.on("message", () => 0);`,
    /forgotten/,
  ],
  ["exits", `process.exit(3);`, /status 3/],
  ["runs out", ``, /status 0/],
])("MigrationThread says THREAD_FAILED when it %s, and answers who waits", async (_, text, why) => {
  const thread = start(text);
  const cancelled = thread.cancel("enough");
  const error = await failureOf(thread);
  expect(error).toMatchObject({ name: "MigrationError", code: "THREAD_FAILED" });
  expect(error.message).toMatch(why);
  await expect(thread.ready).rejects.toMatchObject({ code: "THREAD_FAILED" });
  expect(await cancelled).toBe(true);
  expect(await thread.cancel("again")).toBe(true);
});

test("MigrationThread tells the thread what the answer to its question threw", async () => {
  const thread = start(`
    parentPort.postMessage({ kind: "ask", id: 7, ask: { what: "resume" } });
    parentPort.on("message", (message) => {
      if (message.kind !== "refusal" || message.id !== 7) return;
      parentPort.postMessage({ kind: "over", outcome: { ok: false, error: message.error, committed: false, dropped: 0 } });
    });`);
  expect((await failureOf(thread)).message).toBe("there is no such thing here");
});

test("MigrationThread counts each event as seen, so that the thread may send more", async () => {
  const events: string[] = [];
  const thread = start(
    `
    let seen = 0;
    parentPort.on("message", (message) => {
      if (message.kind === "seen" && (seen += message.events) === 3) process.exit(0);
    });
    for (let i = 0; i < 3; i++) parentPort.postMessage({ kind: "event", event: { event: "warning", code: "X", message: String(i) } });`,
    (event) => {
      if (event.event === "warning") events.push(event.message);
    },
  );
  await thread.ended;
  expect(events).toEqual(["0", "1", "2"]);
});
