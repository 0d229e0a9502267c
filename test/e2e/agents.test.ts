// Two agents, one relay: a region moves by requests to the relay alone.
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import * as https from "node:https";
import { createServer } from "node:net";
import path from "node:path";

import { expect, test } from "vitest";

import { readSealed } from "../../peer/journal/envelope.ts";
import { setupCodec } from "../../peer/journal/records.ts";
import { eventually, Stage, type TestRelay } from "./harness.ts";
import type { Program } from "./program.ts";

interface Answer {
  readonly status: number;
  // oxlint-disable-next-line typescript/no-explicit-any -- JSON from outside, looked at field by field
  readonly body: any;
}

function ask(relay: TestRelay, method: string, target: string, body?: unknown): Promise<Answer> {
  const payload = body === undefined ? undefined : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const request = https.request(
      `${relay.url}${target}`,
      {
        method,
        rejectUnauthorized: false,
        headers: {
          authorization: `Bearer ${relay.key}`,
          ...(payload === undefined
            ? {}
            : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) }),
        },
      },
      (response) => {
        let text = "";
        response.on("data", (part: Buffer) => (text += part.toString()));
        response.on("end", () =>
          resolve({
            status: response.statusCode ?? 0,
            body: text === "" ? undefined : JSON.parse(text),
          }),
        );
      },
    );
    request.once("error", reject);
    request.end(payload);
  });
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  // Far beyond what a busy host takes; what goes on then will never be.
  const deadline = performance.now() + 100_000;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error("it did not come to that");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function enroll(
  stage: Stage,
  relay: TestRelay,
  name: string,
  config: unknown,
): Promise<{ agent: Program; id: string; args: string[] }> {
  const { body } = await ask(relay, "POST", "/v1/enrollments", { name });
  const file = stage.file(`${name}.json`);
  await writeFile(file, JSON.stringify(config));
  const args = ["agent", "--config", file, "--state-dir", stage.file(`${name}-state`), "--json"];
  const agent = stage.memferry(name, [...args, "--relay", relay.url, "--enroll", "-"], {
    input: `${body.code}\n`,
  });
  const online = await agent.waitFor("online");
  return { agent, id: String(online["peerId"]), args };
}

async function orderState(relay: TestRelay, id: string): Promise<Answer["body"]> {
  return (await ask(relay, "GET", `/v1/orders/${id}`)).body;
}

test("a region moves from one agent to another, and the relay never has the secret", async () => {
  await using stage = await Stage.open();
  const relay = await stage.relay({ args: ["--log-level", "debug"] });
  const bytes = randomBytes(3 * 1024 * 1024 + 17);
  await writeFile(stage.file("db.img"), bytes);
  const into = await stage.folder("into");
  const a = await enroll(stage, relay, "host-a", {
    peers: "any",
    regions: { db: { file: stage.file("db.img") } },
    hooks: { stop: ["touch", stage.file("it's stopped")] },
  });
  await enroll(stage, relay, "host-b", {
    peers: [a.id],
    directories: { images: { path: into, maxBytes: "1GiB" } },
  });
  await until(async () => (await ask(relay, "GET", "/v1/regions")).body.regions[0]?.name === "db");
  const { status, body } = await ask(relay, "POST", "/v1/migrations", {
    from: "host-a/db",
    to: "host-b",
    options: { hooks: { suspend: "stop" } },
  });
  expect([status, body.orders?.length]).toEqual([201, 2]);
  for (const order of body.orders) {
    await until(
      async () => !["queued", "running"].includes((await orderState(relay, order.id)).state),
    );
    expect(await orderState(relay, order.id)).toMatchObject({ state: "done", problem: null });
  }
  expect(Buffer.compare(await readFile(path.join(into, "db")), bytes)).toBe(0);
  expect(statSync(stage.file("it's stopped")).isFile()).toBe(true);
  const session = (await ask(relay, "GET", `/v1/sessions/${body.sessionIds[0]}`)).body;
  expect(session.state).toBe("done");

  // What the seeder's agent made, looked for in everything that the relay has written.
  const sessionId = Uint8Array.from(Buffer.from(body.sessionIds[0], "hex"));
  const setup = setupCodec.decode(
    await readSealed(
      "setup",
      sessionId,
      stage.file(`host-a-state/sessions/seeder-${body.sessionIds[0]}/setup`),
    ),
  );
  const secret = Buffer.from(setup.ticket.secret);
  const token = Buffer.from(setup.ticket.token);
  const needles = [secret, token].flatMap((one) => [
    one,
    ...(["hex", "base64", "base64url"] as const).map((coding) => Buffer.from(one.toString(coding))),
  ]);
  let looked = 0;
  for (const name of readdirSync(relay.dataDir, { recursive: true })) {
    const file = path.join(relay.dataDir, String(name));
    if (!statSync(file).isFile()) continue;
    const content = readFileSync(file);
    looked += content.length;
    expect(needles.some((needle) => content.includes(needle))).toBe(false);
  }
  expect(looked).toBeGreaterThan(100_000);
  const said = Buffer.from(relay.program.stdout + relay.program.stderr);
  expect(needles.some((needle) => said.includes(needle))).toBe(false);
});

test("what is not allowed by the host's own configuration fails with a code", async () => {
  await using stage = await Stage.open();
  const relay = await stage.relay();
  await writeFile(stage.file("db.img"), randomBytes(70_000));
  const into = await stage.folder("into");
  await enroll(stage, relay, "host-a", {
    peers: "any",
    regions: { db: { file: stage.file("db.img") } },
  });
  const b = await enroll(stage, relay, "host-b", {
    peers: "any",
    directories: {
      small: { path: into, maxBytes: "64KiB" },
      big: { path: into, maxBytes: "1GiB" },
    },
  });
  const c = await enroll(stage, relay, "host-c", {
    directories: { images: { path: into, maxBytes: "1GiB" } },
  });
  await until(async () => (await ask(relay, "GET", "/v1/regions")).body.regions[0]?.name === "db");
  const problemOf = async (to: string, options: unknown): Promise<string> => {
    const { body } = await ask(relay, "POST", "/v1/migrations", { from: "host-a/db", to, options });
    let code = "";
    await until(async () => {
      const states = await Promise.all(
        body.orders.map((order: { id: string }) => orderState(relay, order.id)),
      );
      code = states.find((one) => one.state === "failed")?.problem.code ?? "";
      return code !== "";
    });
    return code;
  };
  expect(await problemOf("host-b", { directory: "elsewhere" })).toBe("DIRECTORY_UNKNOWN");
  expect(await problemOf("host-b", { directory: "small" })).toBe("REGION_TOO_LARGE");
  expect(await problemOf("host-b", { directory: "big", export: "vm" })).toBe("EXPORT_NOT_ALLOWED");
  expect(await problemOf("host-b", { directory: "big", hooks: { resume: "rm" } })).toBe(
    "HOOK_NOT_NAMED",
  );
  expect(await problemOf("host-b", { directory: "big", hooks: { suspend: "rm" } })).toBe(
    "HOOK_NOT_NAMED",
  );
  expect(await problemOf("host-c", {})).toBe("PEER_NOT_ALLOWED");
  const none = await ask(relay, "POST", "/v1/migrations", { from: "host-a/other", to: "host-b" });
  expect([none.status, none.body.code]).toEqual([404, "NOT_FOUND"]);

  // A peer that is not there: its order waits, and then does not any more.
  expect(await c.agent.stop()).toBe(false);
  await until(async () => (await ask(relay, "GET", `/v1/peers/${c.id}`)).body.state === "offline");
  const late = await ask(relay, "POST", "/v1/migrations", {
    from: "host-a/db",
    to: "host-c",
    orderTtlMs: 1_000,
  });
  const [, waiting] = late.body.orders;
  await until(async () => (await orderState(relay, waiting.id)).state === "failed");
  expect((await orderState(relay, waiting.id)).problem.code).toBe("ORDER_EXPIRED");

  // Revoked: out at once, and not in again.
  const revoked = await ask(relay, "DELETE", `/v1/peers/${b.id}`);
  expect(revoked.status).toBe(204);
  await eventually(() => b.agent.exit !== undefined);
  expect(b.agent.last("error")?.["code"]).toBe("PEER_UNKNOWN");
});

test("a code is good once, in time, and for nobody who makes one up", async () => {
  await using stage = await Stage.open();
  const relay = await stage.relay();
  const { body } = await ask(relay, "POST", "/v1/enrollments", { ttlMs: 1_000 });
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  const used = await ask(relay, "POST", "/v1/enrollments", {});
  const join = async (name: string, code: string): Promise<Program> => {
    const args = ["agent", "--relay", relay.url, "--state-dir", stage.file(name), "--json"];
    return stage.memferry(name, [...args, "--enroll", "-"], { input: code });
  };
  const late = await join("late", body.code);
  await late.exited;
  expect(late.last("error")?.["code"]).toBe("ENROLLMENT_EXPIRED");
  await (await join("first", used.body.code)).waitFor("online");
  const second = await join("second", used.body.code);
  await second.exited;
  expect(second.last("error")?.["code"]).toBe("ENROLLMENT_USED");
  expect((await stage.run(["agent", "--enroll", "memferry1e_AAAA"])).code).not.toBe(0);
});

test("a second agent in one state directory is refused, and let in once the first is killed", async () => {
  await using stage = await Stage.open();
  const relay = await stage.relay();
  const { agent, args } = await enroll(stage, relay, "host-a", {});
  const second = await stage.run(args);
  expect(second.code).toBe(2);
  expect(second.stdout).toContain(`another agent, process ${agent.pid}`);
  agent.kill("SIGKILL");
  await agent.waitForExit();
  const third = stage.memferry("the next one", args);
  await third.waitFor("online");
});

test("an agent that was killed in the middle, and a relay that was started again, cost nothing", async () => {
  await using stage = await Stage.open();
  const port = await freePort();
  const listen = ["--listen", `127.0.0.1:${port}`];
  const relay = await stage.relay({ args: listen });
  const bytes = randomBytes(2 * 1024 * 1024);
  await writeFile(stage.file("db.img"), bytes);
  const into = await stage.folder("into");
  const a = await enroll(stage, relay, "host-a", {
    peers: "any",
    regions: { db: { file: stage.file("db.img") } },
  });
  const b = await enroll(stage, relay, "host-b", {
    peers: "any",
    directories: { images: { path: into, maxBytes: "1GiB" } },
  });
  await until(async () => (await ask(relay, "GET", "/v1/regions")).body.regions[0]?.name === "db");
  const { body } = await ask(relay, "POST", "/v1/migrations", {
    from: "host-a/db",
    to: "host-b",
    options: { finalize: "manual" },
  });
  const sessionState = async (on: TestRelay): Promise<string> =>
    (await ask(on, "GET", `/v1/sessions/${body.sessionIds[0]}`)).body.state;
  await until(async () => (await sessionState(relay)) === "precopy");
  process.kill(b.agent.pid, "SIGKILL");
  await b.agent.exited;
  await relay.program.stop();
  const again = await stage.relay({ args: listen });
  await until(() => Promise.resolve(a.agent.all("online").length > 1));
  const next = stage.memferry("host-b again", b.args);
  await next.waitFor("online");
  await until(
    async () =>
      (await ask(again, "POST", `/v1/sessions/${body.sessionIds[0]}:finalize`, {})).status === 202,
  );
  for (const order of body.orders) {
    await until(async () => (await orderState(again, order.id)).state === "done");
  }
  expect(await sessionState(again)).toBe("done");
  expect(Buffer.compare(await readFile(path.join(into, "db")), bytes)).toBe(0);
});

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address !== null ? address.port : 0;
}
