/**
 * What an operator wants of a session, through the API, against real peers: how it hands over, and until when.
 */
import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { fromBase64Url } from "../../relay/protocol/bytes.ts";
import { encodeTicket } from "../../relay/protocol/ticket.ts";
import { requireMount } from "../native/support/exports.ts";
import { skipUnless } from "../support/requires.ts";
import { makeFile } from "./files.ts";
import { eventually, Stage, text, type TestRelay } from "./harness.ts";
import type { Program } from "./program.ts";
import { Rest, type Body } from "./rest.ts";

let stage: Stage;
let relay: TestRelay;
let rest: Rest;

beforeAll(async () => {
  stage = await Stage.open();
  relay = await stage.relay();
  rest = new Rest(relay);
  await makeFile(stage.file("source"), 8 << 20);
});
afterAll(() => stage[Symbol.asyncDispose]());

interface Joined {
  readonly id: string;
  readonly seeder: Program;
  readonly leecher: Program;
}

let count = 0;

interface JoinOptions {
  readonly seed?: readonly string[];
  readonly leech?: readonly string[];
  /** Before the destination comes. */
  readonly meanwhile?: (seeder: Program) => Promise<void>;
}

/** Both peers with tickets of a session that the API made. */
async function joined(wanted: Body, options: JoinOptions = {}): Promise<Joined> {
  const { session, tickets, relay: place } = await rest.post("/v1/sessions", wanted);
  return await peersOf({ session, tickets }, place, options);
}

async function peersOf(
  { session, tickets }: Body,
  place: unknown,
  { seed = [], leech = [], meanwhile = () => Promise.resolve() }: JoinOptions,
): Promise<Joined> {
  const id = text(session as Body, "id");
  const relayed = place as Body;
  const hashes = relayed["certificateHashes"] as string[];
  const common = {
    relayUrl: text(relayed, "url"),
    certificateHashes: hashes.map((hash) => Buffer.from(hash, "hex")),
    sessionId: Buffer.from(id, "hex"),
    secret: randomBytes(32),
  };
  const ticket = (role: "seeder" | "leecher"): string => {
    const token = fromBase64Url(text((tickets as Body)[role] as Body, "token"));
    return encodeTicket({ ...common, role, token });
  };
  const copy = stage.file(`copy-${count++}`);
  const path = ["--path", "relay", "--json"];
  const seeder = stage.memferry(
    "the seeder",
    ["seed", "--file", stage.file("source"), "--join", "-", ...path, ...seed],
    {
      input: `${ticket("seeder")}\n`,
      // Who has a ticket needs no key.
      environment: { XDG_CONFIG_HOME: stage.file("nowhere") },
    },
  );
  await meanwhile(seeder);
  const leecher = stage.leech(ticket("leecher"), ["--file", copy, ...leech]);
  return { id, seeder, leecher };
}

async function reaches(id: string, state: string): Promise<void> {
  await expect
    .poll(async () => (await rest.get(`/v1/sessions/${id}`))["state"], { timeout: 60_000 })
    .toBe(state);
}

describe("a deadline", () => {
  test("cancels: the workload stays at the source, and both peers say why", async () => {
    const { id, seeder, leecher } = await joined(
      { limits: { deadlineMs: 1_000 }, policy: { onDeadline: "cancel" } },
      { leech: ["--finalize", "manual"] },
    );
    await Promise.all([seeder.expectExit(1), leecher.expectExit(1)]);
    for (const peer of [seeder, leecher])
      expect(text(peer.last("error"), "message")).toContain("deadline");
    const events = (await rest.get(`/v1/sessions/${id}/events`))["events"] as Body[];
    expect(events.map((event) => event["type"])).toContain("deadlinePassed");
    expect(await rest.get(`/v1/sessions/${id}`)).toMatchObject({ state: "cancelled" });
  });

  test("finalizes, also one that was set while the copying went on", async () => {
    const { id, seeder, leecher } = await joined({}, { leech: ["--finalize", "manual"] });
    await reaches(id, "precopy");
    await rest.patch(`/v1/sessions/${id}`, {
      limits: { deadlineMs: 1_000 },
      policy: { onDeadline: "finalize" },
    });
    await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
    expect(await rest.get(`/v1/sessions/${id}`)).toMatchObject({ state: "done" });
  });

  test("does nothing to a session that is paused until it goes on", async () => {
    const { id, seeder, leecher } = await joined(
      { limits: { deadlineMs: 1_000 }, policy: { onDeadline: "finalize" } },
      { leech: ["--finalize", "manual"] },
    );
    await reaches(id, "precopy");
    await rest.post(`/v1/sessions/${id}:pause`, {});
    await new Promise((resolve) => setTimeout(resolve, 5_000));
    expect(await rest.get(`/v1/sessions/${id}`)).toMatchObject({ state: "paused" });
    await rest.post(`/v1/sessions/${id}:resume`, {});
    await Promise.all([seeder.expectExit(0, 90_000), leecher.expectExit(0, 90_000)]);
  });
});

test("mode precopy: nothing is handed over before all of it is there, whatever the leecher was started with", async (ctx) => {
  skipUnless(ctx, requireMount());
  const { seeder, leecher } = await joined(
    { mode: "precopy" },
    { leech: ["--mode", "postcopy", "--export", `fuse:${stage.file("mount")}`] },
  );
  await seeder.expectExit(0);
  // Post-copy has no rounds: it hands over as soon as it is told that writes are tracked.
  expect(leecher.all("round").length).toBeGreaterThan(0);
  await leecher.waitFor("serving");
  leecher.kill("SIGINT");
  await leecher.expectExit(0);
});

test("fewer rounds, said meanwhile, end a migration that does not converge", async (ctx) => {
  skipUnless(ctx, requireMount());
  const at = stage.file("hot");
  const hot = `${at}/source`;
  const limits = { downtimeTargetMs: 1, bytesPerS: 4 << 20 };
  let writer: Program | undefined;
  const { id, seeder, leecher } = await joined(
    { mode: "precopy", limits },
    {
      seed: ["--export", `fuse:${at}`],
      meanwhile: async (seeding) => {
        await seeding.waitFor("joins");
        // Every chunk of it, again and again: more than is sent meanwhile.
        const dd = `dd if=/dev/urandom of=${hot} bs=64k count=128 conv=notrunc oflag=direct status=none`;
        writer = stage.start({
          name: "the writer",
          command: "sh",
          args: ["-c", `while ${dd}; do echo '{"event":"written"}'; done`],
          environment: stage.environment(),
        });
        await writer.waitFor("written");
      },
    },
  );
  await eventually(() => leecher.all("round").length >= 3, 90_000);
  expect(leecher.last("phase")).toMatchObject({ phase: "precopy" });
  await rest.patch(`/v1/sessions/${id}`, { limits: { ...limits, maxRounds: 1 } });
  await Promise.all([seeder.expectExit(0, 90_000), leecher.expectExit(0, 90_000)]);
  expect(leecher.last("round")).toMatchObject({ verdict: "force" });
  await writer?.waitForExit();
});

describe("a group", () => {
  async function group(): Promise<{ readonly id: string; readonly members: readonly Joined[] }> {
    const made = await rest.post("/v1/migrations", {
      sessions: [{ name: "ram" }, { name: "disk" }],
    });
    const members: Joined[] = [];
    for (const [k, one] of (made["sessions"] as Body[]).entries()) {
      const file = stage.file(`member-${count}-${k}`);
      await makeFile(file, 1 << 20);
      members.push(
        await peersOf(one, made["relay"], {
          seed: ["--file", file],
          leech: ["--finalize", "manual"],
        }),
      );
    }
    return { id: text(made, "id"), members };
  }

  test("is handed over as one, once all of it can be", async () => {
    const { id, members } = await group();
    for (const member of members) await reaches(member.id, "precopy");
    await rest.post(`/v1/migrations/${id}:finalize`, {});
    for (const { seeder, leecher } of members) {
      await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
    }
    const shown = await rest.get(`/v1/migrations/${id}`);
    expect(shown).toMatchObject({ state: "done", allowedActions: [], progress: { percent: 100 } });
    expect(Number(shown["downtimeMs"])).toBeGreaterThan(0);
  });

  test("is not handed over while one of it cannot be, and can be cancelled", async () => {
    const { id, members } = await group();
    const [first, second] = members;
    if (first === undefined || second === undefined) throw new Error("two were made");
    for (const member of members) await reaches(member.id, "precopy");
    second.leecher.kill("SIGKILL");
    await second.leecher.waitForExit();
    await reaches(second.id, "paused");
    const refused = await rest.ask("POST", `/v1/migrations/${id}:finalize`, {});
    expect(refused.status).toBe(409);
    expect(await rest.get(`/v1/sessions/${first.id}`)).toMatchObject({ state: "precopy" });
    await rest.post(`/v1/migrations/${id}:cancel`, {});
    await Promise.all([
      first.seeder.expectExit(1),
      first.leecher.expectExit(1),
      second.seeder.expectExit(1),
    ]);
    expect(await rest.get(`/v1/migrations/${id}`)).toMatchObject({ state: "cancelled" });
  });
});

test("`memferry sessions` steers a migration from a terminal", async () => {
  const { id, seeder, leecher } = await joined(
    { name: "orders" },
    { leech: ["--finalize", "manual"] },
  );
  const command = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await stage.run(["sessions", ...args]);
    expect(stderr).not.toMatch(/^memferry: /m);
    expect(code).toBe(0);
    return stdout;
  };
  await reaches(id, "precopy");
  await command("pause", id, "--reason", "backup window");
  await reaches(id, "paused");
  const changed = await command("set", id, "--downtime-target", "2s", "--max-rounds", "9");
  expect(JSON.parse(changed)).toMatchObject({ limits: { downtimeTargetMs: 2_000, maxRounds: 9 } });
  const again = await command("set", id, "--rate", "40MiB", "--on-deadline", "cancel");
  expect(JSON.parse(again)).toMatchObject({
    limits: { bytesPerS: 40 << 20, downtimeTargetMs: 2_000, maxRounds: 9 },
    policy: { onDeadline: "cancel" },
  });
  expect(JSON.parse(await command("set", id, "--clear"))).toMatchObject({ limits: {} });
  expect(await command("check", id)).toMatch(/^(ok|info|warning|error) +\S/m);
  const refused = await stage.run(["sessions", "delete", id]);
  expect(refused.code).toBe(1);
  expect(refused.stderr).toContain("not over");
  await command("resume", id);
  await reaches(id, "precopy");
  await command("finalize", id);
  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
  const told = await command("events", id);
  for (const type of ["pause", "finalizeRequested", "committed", "done"])
    expect(told).toContain(type);
  await command("delete", id);
  const gone = await stage.run(["sessions", "show", id]);
  expect(gone.code).toBe(1);
});

test.each([
  [["sessions", "explode", "x"], "is not one of list, start"],
  [["sessions", "pause"], "which session?"],
  [["sessions", "set", "x"], "nothing is to be changed"],
  [["sessions", "set", "x", "--max-rounds", "many"], "not a number"],
  [["sessions", "set", "x", "--on-deadline", "explode"], "not one of cancel, finalize, postcopy"],
])("%j is refused with what to do", async (args, told) => {
  const { code, stderr } = await stage.run(args);
  expect(stderr).toContain(told);
  expect(code).toBe(2);
});
