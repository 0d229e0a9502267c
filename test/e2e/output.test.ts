/**
 * What the commands print: for people, for programs, and not at all.
 */
import { readFile, stat } from "node:fs/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { makeFile, sameContent } from "./files.ts";
import { number, Stage, text, type TestRelay } from "./harness.ts";

let stage: Stage;
let relay: TestRelay;
let source: string;

beforeAll(async () => {
  stage = await Stage.open();
  relay = await stage.relay();
  source = stage.file("source");
  await makeFile(source, 3_000_001);
});

afterAll(() => stage[Symbol.asyncDispose]());

/** Whether `names` occur in `all` in this order, others between them. */
function inOrder(names: readonly string[], all: readonly string[]): boolean {
  let at = -1;
  return names.every((name) => (at = all.indexOf(name, at + 1)) >= 0);
}

test("--json prints one object a line, and the documented events in their order", async () => {
  const { seeder, ticket } = await stage.seed(["--file", source]);
  const leecher = stage.leech(ticket, ["--file", stage.file("json")]);
  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
  for (const { stdout, stderr } of [seeder, leecher]) {
    const lines = stdout.trim().split("\n");
    for (const line of lines) expect(JSON.parse(line)).toHaveProperty("event");
    expect(stderr).toBe("");
  }
  const precopy = ["channel", "phase precopy", "round"];
  const here = ["ticket", ...precopy, "phase finalizing", "suspended", "committed", "done"];
  const there = [...precopy, "phase finalizing", "suspended", "committed", "resumed", "done"];
  expect(seeder.eventNames()).toSatisfy((names: string[]) => inOrder(here, names));
  expect(leecher.eventNames()).toSatisfy((names: string[]) => inOrder(there, names));
  expect(text(seeder.last("channel"), "fingerprint")).toBe(
    text(leecher.last("channel"), "fingerprint"),
  );
  for (const done of [seeder.last("done"), leecher.last("done")]) {
    expect(number(done, "downtimeMs")).toBeGreaterThan(0);
    expect(number(done, "totalMs")).toBeGreaterThan(number(done, "downtimeMs"));
    expect(number(done, "bytesTotal")).toBe(3_000_001);
    expect(number(done, "bytesWire")).toBeGreaterThan(0);
    expect(number(done, "rounds")).toBeGreaterThanOrEqual(1);
    expect(text(done, "path")).toBe("websocket");
    expect(text(done, "rootHash")).toBe(text(leecher.last("done"), "rootHash"));
  }
});

test("--quiet prints nothing when all goes well, but the ticket", async () => {
  const ticketFile = stage.file("ticket");
  const seeder = stage.memferry("the seeder", [
    "seed",
    "--file",
    source,
    "--quiet",
    "--ticket-file",
    ticketFile,
  ]);
  let found = false;
  for (let i = 0; i < 100 && !found; i++) {
    found = await stat(ticketFile).then(
      ({ size, mode }) => size > 0 && (mode & 0o777) === 0o600,
      () => false,
    );
    if (!found) await new Promise((resolve) => setTimeout(resolve, 100));
  }
  expect(found, "a ticket file that only its owner reads").toBe(true);
  const args = ["leech", "--ticket-file", ticketFile, "--file", stage.file("quiet"), "--quiet"];
  expect(await stage.run(args)).toEqual({ code: 0, stdout: "", stderr: "" });
  await seeder.expectExit(0);
  expect(seeder.stderr).toBe("");
  expect(seeder.stdout).not.toContain("memferry1_");
});

test("without options a person reads the ticket on standard output and the story on standard error", async () => {
  const seeder = stage.memferry("the seeder", ["seed", "--file", source]);
  for (let i = 0; i < 200 && !seeder.stdout.includes("\n"); i++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const ticket = /^ticket: (memferry1_[\w-]+)\n$/.exec(seeder.stdout)?.[1];
  const result = await stage.run(["leech", ticket ?? "", "--file", stage.file("story")]);
  await seeder.expectExit(0);
  expect(result.code).toBe(0);
  expect(result.stdout).toBe("");
  for (const stderr of [result.stderr, seeder.stderr]) {
    expect(stderr).toMatch(
      /connected over websocket, fingerprint [0-9a-f]{4}-[0-9a-f]{4}: source, 2\.9 MiB/,
    );
    expect(stderr).toMatch(/committed: the destination owns the region now/);
    expect(stderr).toMatch(/done in .*, downtime .*, root [0-9a-f]{16}\n$/);
    expect(stderr, "no terminal, no bar").not.toContain("\u001b");
  }
  expect(await sameContent(source, stage.file("story"))).toBe(true);
});

describe("--help has examples and ends with 0:", () => {
  test.for(["", "seed", "leech", "sessions", "keys", "projects", "login"])(
    "memferry %s",
    async (name) => {
      const { code, stdout, stderr } = await stage.run([name, "--help"].filter(Boolean));
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      expect(stdout).toMatch(/^(Usage: memferry|memferry moves)/);
      expect(stdout).toMatch(/Examples:\n( {2}# [^\n]+\n)? {2}memferry /);
    },
  );

  test("memferry relay", async () => {
    const { code, stdout, stderr } = await stage.run(["relay", "--help"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/^Usage: memferry relay/);
  });

  test("and without a command it is status 2", async () => {
    const { code, stdout } = await stage.run([]);
    expect(code).toBe(2);
    expect(stdout).toContain("Usage: memferry COMMAND");
  });
});

test("`memferry login` makes a relay known to another user, who then needs no flags", async () => {
  const environment = { XDG_CONFIG_HOME: stage.file("other-user") };
  const withKey = { environment, input: `${relay.key}\n` };
  const refused = await stage.run(["login", relay.url], withKey);
  expect(refused.code).toBe(1);
  const [, hash] = /--certificate-hash ([0-9a-f]{64})$/m.exec(refused.stderr) ?? [];
  expect(hash).toBe(relay.certificateHashes[0]);
  const login = ["login", relay.url, "--certificate-hash", hash ?? ""];
  expect((await stage.run(login, withKey)).code).toBe(0);
  const file = `${stage.file("other-user")}/memferry/config.json`;
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  expect(JSON.parse(await readFile(file, "utf8"))).toMatchObject({ default: relay.url });
  expect((await stage.run(["sessions", "list"], { environment })).code).toBe(0);

  const { seeder, ticket } = await stage.seed(["--file", source], { environment });
  const leecher = stage.leech(ticket, ["--file", stage.file("logged-in")]);
  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
});

describe("an operator with the command line alone", () => {
  const memferry = async (args: readonly string[], key?: string) =>
    await stage.run(
      [...args, "--json", ...(key === undefined ? [] : ["--key-file", "-"])],
      key === undefined ? {} : { input: key },
    );
  const only = async (result: ReturnType<typeof memferry>): Promise<Record<string, string>> => {
    const { code, stdout, stderr } = await result;
    expect({ code, stderr, lines: stdout.trim().split("\n").length }).toEqual({
      code: 0,
      stderr: "",
      lines: 1,
    });
    return JSON.parse(stdout);
  };

  test("makes a project and its keys, which are its own, and takes them away again", async () => {
    const project = await only(memferry(["projects", "create", "orders", "--limit", "sessions=3"]));
    expect(project).toMatchObject({ event: "project", name: "orders", limits: { sessions: 3 } });
    const { id = "" } = project;
    const { secret: admin = "" } = await only(
      memferry(["keys", "create", "first", "--scope", "admin", "--project", id]),
    );
    const made = await only(
      memferry(["keys", "create", "ci", "--scope", "sessions:read", "--expires-in", "90d"], admin),
    );
    expect(made).toMatchObject({ event: "key", projectId: id, scopes: ["sessions:read"] });
    expect((await memferry(["sessions", "list"], made["secret"])).code).toBe(0);
    const listed = await stage.run(["keys", "list", "--project", id]);
    expect(listed.stdout).toMatch(/^ID +PREFIX +STATE +LAST USED +EXPIRES +SCOPES +NAME\n/);
    expect(listed.stdout).toContain(made["prefix"]);
    expect(listed.stdout).not.toContain("mfk_");
    const refused = await memferry(["projects", "list"], admin);
    expect(refused.code).toBe(1);
    expect(JSON.parse(refused.stdout)).toMatchObject({ event: "error", code: "SCOPE_MISSING" });
    await only(memferry(["keys", "revoke", made["prefix"] ?? ""], admin));
    expect((await memferry(["sessions", "list"], made["secret"])).code).toBe(1);
    const last = await memferry(["keys", "revoke", admin], admin);
    expect(JSON.parse(last.stdout)).toMatchObject({ code: "LAST_FULL_KEY" });
    expect(
      await only(memferry(["projects", "update", id, "--limit", "sessions=default"])),
    ).toMatchObject({ limits: {} });
    expect(await only(memferry(["projects", "delete", id]))).toEqual({ event: "deleted", id });
    expect((await stage.run(["projects", "list"])).stdout).not.toContain(id);
  });

  test("is told with status 2 what is missing", async () => {
    for (const args of [
      ["keys", "create"],
      ["keys", "create", "x"],
      ["keys", "create", "x", "--scope", "admin", "--expires-in", "soon"],
      ["keys", "revoke"],
      ["keys", "drop"],
      ["projects", "create"],
      ["projects", "create", "x", "--limit", "sessions"],
      ["projects", "update", "x"],
      ["projects", "delete"],
    ]) {
      const { code, stdout, stderr } = await stage.run(args);
      expect([args, code, stdout]).toEqual([args, 2, ""]);
      expect(stderr).toMatch(/^memferry: [^\n]+\n$/);
    }
  });
});
