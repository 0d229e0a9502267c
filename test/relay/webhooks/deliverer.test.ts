import { createHmac, randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer as createHttpServer, type IncomingMessage } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import type { AddressInfo, Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";

import { createApiKeys } from "../../../relay/db/api-keys.ts";
import { openDatabase, type Database } from "../../../relay/db/database.ts";
import { addProjectEvent } from "../../../relay/db/project-events.ts";
import {
  makeDeliveries,
  projectWebhooks,
  type DeliveryRow,
  type WebhookRow,
} from "../../../relay/db/webhooks.ts";
import { projectEvent, webhook } from "../../../relay/db/schema.ts";
import { toHex } from "../../../relay/protocol/bytes.ts";
import { parseAddressRange } from "../../../relay/runtime/address-range.ts";
import { createSecretBox } from "../../../relay/secret-box.ts";
import { ensureCertificate } from "../../../relay/transport/certificate.ts";
import {
  Deliverer,
  retryInMs,
  secretUse,
  type DelivererOptions,
} from "../../../relay/webhooks/deliverer.ts";
import { makeSecret } from "../../../relay/webhooks/signature.ts";
import { startPostgres, type TestPostgres } from "../../support/postgres.ts";
import { requireTool } from "../../support/requires.ts";

interface Heard {
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

/** What it answers, and what it heard. */
interface Receiver {
  readonly url: string;
  readonly heard: Heard[];
  status: number;
  headers: Record<string, string>;
  body: Buffer;
  /** It says nothing. */
  silent: boolean;
}

const secrets = createSecretBox(randomBytes(32));
const loopback = [parseAddressRange("127.0.0.0/8")].filter((range) => range !== undefined);
const servers: Server[] = [];
let directory: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-webhooks-"));
});
afterAll(async () => {
  for (const server of servers) server.close();
  await rm(directory, { recursive: true, force: true });
});

async function receiver(
  host = "127.0.0.1",
  tls?: { key: string; cert: string },
): Promise<Receiver> {
  const heard: Heard[] = [];
  const answer: Receiver = {
    url: "",
    heard,
    status: 204,
    headers: {},
    body: Buffer.alloc(0),
    silent: false,
  };
  const listener: Parameters<typeof createHttpServer>[1] = (request, response) => {
    let body = "";
    request.setEncoding("utf8").on("data", (text: string) => (body += text));
    request.on("end", () => {
      heard.push({ headers: request.headers, body });
      if (answer.silent) return;
      response.writeHead(answer.status, answer.headers).end(answer.body);
    });
  };
  const server = tls === undefined ? createHttpServer(listener) : createHttpsServer(tls, listener);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return Object.assign(answer, {
    url: `${tls === undefined ? "http" : "https"}://${host}:${port}/hook?a=b`,
  });
}

function suite(name: string, open: () => Promise<Database>, skipReason: string): void {
  // oxlint-disable-next-line vitest/valid-title -- the suite runs once for each database
  describe(name, () => {
    let database: Database;
    beforeAll(async () => {
      if (skipReason === "") database = await open();
      return async () => {
        if (skipReason === "") await database.close();
      };
    });

    /** A project of its own with one webhook, and a deliverer that looks when it is told to. */
    async function scene(
      url: string,
      options: Partial<DelivererOptions> = {},
      eventTypes = ["session.*"],
    ) {
      // A deliverer is one for the whole database: what an earlier scene left is not for this one's.
      await database.run((orm) => orm.delete(webhook));
      const projectId = await createApiKeys(database).project(toHex(randomBytes(8)));
      const by = { projectId, actor: "key:test", remoteAddress: "", requestId: "" };
      const webhooks = projectWebhooks(database, projectId);
      const id = toHex(randomBytes(16));
      const secret = makeSecret();
      const row = await webhooks.create(
        {
          id,
          url,
          eventTypes,
          enabled: true,
          sealedSecret: secrets.seal(secretUse(id), new TextEncoder().encode(secret)),
        },
        by,
      );
      const deliverer = new Deliverer({
        database,
        secrets,
        rules: { allow: loopback, http: true },
        version: "0.0.0-test",
        log: () => {},
        retryInMs: () => 0,
        ...options,
      });
      const happen = (type: string) =>
        database.transaction((tx) =>
          addProjectEvent(tx, {
            projectId,
            type,
            subjectKind: "session",
            subjectId: "5e",
            data: { n: 1 },
          }),
        );
      const deliveries = () => webhooks.deliveries(id, { limit: 100 });
      /** Looks until every delivery is over, or one has been tried so often. */
      const settle = async (attempts = Number.POSITIVE_INFINITY) => {
        await vi.waitFor(
          async () => {
            await deliverer.look();
            const found = await deliveries();
            const tried = ({ attempts: count, problem }: DeliveryRow) =>
              count >= attempts && problem !== "";
            const over = found.every((one) => one.state !== "pending" || tried(one));
            if (found.length === 0 || !over) throw new Error("not yet");
          },
          { timeout: 15_000, interval: 10 },
        );
        return await deliveries();
      };
      return { webhooks, row, secret, by, deliverer, happen, deliveries, settle };
    }

    const promise = (sentence: string, work: () => Promise<void>): void => {
      // oxlint-disable-next-line vitest/valid-title, vitest/expect-expect -- both come from the caller
      test(sentence, async (ctx) => {
        if (skipReason !== "") ctx.skip(skipReason);
        await work();
      });
    };

    promise(
      "a delivery is signed over its time and body, and names itself and its event",
      async () => {
        const to = await receiver();
        const { happen, settle, secret, row, deliverer } = await scene(to.url);
        await happen("peer.enrolled");
        const eventId = await happen("session.committed");
        const [delivery, ...more] = await settle();
        expect(more).toEqual([]);
        expect(delivery).toMatchObject({
          state: "delivered",
          attempts: 1,
          statusCode: 204,
          problem: "",
        });
        expect(to.heard).toHaveLength(1);
        const { headers, body } = to.heard[0] ?? { headers: {}, body: "" };
        expect(JSON.parse(body)).toEqual({
          id: String(eventId),
          type: "session.committed",
          at: expect.any(String),
          projectId: row.projectId,
          subject: { kind: "session", id: "5e" },
          data: { n: 1 },
        });
        expect(headers["memferry-delivery"]).toBe(delivery?.id);
        expect(headers["memferry-event"]).toBe("session.committed");
        const [, t, v1] =
          /^t=(\d+),v1=([0-9a-f]{64})$/.exec(String(headers["memferry-signature"])) ?? [];
        expect(v1).toBe(createHmac("sha256", secret).update(`${t}.${body}`).digest("hex"));
        expect(Math.abs(Number(t) - Date.now() / 1000)).toBeLessThan(120);
        await deliverer.stop();
      },
    );

    promise(
      "a receiver that fails is asked again, and given up after the last attempt",
      async () => {
        const to = await receiver();
        to.status = 500;
        const { happen, settle, deliverer } = await scene(to.url);
        await happen("session.failed");
        const [twice] = await settle(2);
        expect(twice).toMatchObject({
          state: "pending",
          statusCode: 500,
          problem: "the receiver refused it",
        });
        const [over] = await settle();
        expect(over).toMatchObject({ state: "failed", attempts: 12 });
        expect(to.heard).toHaveLength(12);
        // The same delivery each time, so that a receiver can tell.
        expect(new Set(to.heard.map(({ headers }) => headers["memferry-delivery"])).size).toBe(1);
        await deliverer.stop();
      },
    );

    promise("a receiver that recovers gets what it missed", async () => {
      const to = await receiver();
      to.status = 503;
      const { happen, settle, deliverer } = await scene(to.url);
      await happen("session.a");
      await happen("session.b");
      await settle(1);
      to.status = 200;
      expect((await settle()).map(({ state }) => state)).toEqual(["delivered", "delivered"]);
      await deliverer.stop();
    });

    promise("a redirect is not followed, whoever it leads to", async () => {
      const inner = await receiver();
      const to = await receiver();
      to.status = 307;
      to.headers = { location: inner.url };
      const { happen, settle, deliverer } = await scene(to.url);
      await happen("session.done");
      expect(await settle()).toMatchObject([{ state: "failed", attempts: 1, statusCode: 307 }]);
      expect(inner.heard).toEqual([]);
      await deliverer.stop();
    });

    promise("a receiver that never answers, or never stops, costs a bounded time", async () => {
      const to = await receiver();
      to.silent = true;
      const { happen, settle, deliverer } = await scene(to.url, { deadlineMs: 200 });
      await happen("session.done");
      expect(await settle(1)).toMatchObject([{ problem: "no answer in time", statusCode: null }]);
      to.silent = false;
      to.body = Buffer.alloc(8 * 1024 * 1024);
      to.status = 200;
      expect(await settle()).toMatchObject([{ state: "delivered", statusCode: 200 }]);
      await deliverer.stop();
    });

    promise(
      "a name that resolves to loopback, or to something else the second time, is not connected to",
      async () => {
        const to = await receiver("hooks.example");
        let asked = 0;
        const refused = await scene(to.url, {
          rules: { allow: [], http: true },
          resolve: () => Promise.resolve(["127.0.0.1"]),
        });
        await refused.happen("session.done");
        expect(await refused.settle(1)).toMatchObject([
          { problem: expect.stringContaining("not public"), statusCode: null },
        ]);
        expect(to.heard).toEqual([]);
        await refused.deliverer.stop();
        // The answer that was looked at is the one that is used: the name is not asked about again.
        const rebound = await scene(to.url, {
          resolve: () => Promise.resolve(asked++ === 0 ? ["127.0.0.1"] : ["169.254.169.254"]),
        });
        await rebound.happen("session.done");
        expect(await rebound.settle()).toMatchObject([{ state: "delivered" }]);
        expect(asked).toBe(1);
        expect(to.heard[0]?.headers.host).toBe(new URL(to.url).host);
        await rebound.deliverer.stop();
      },
    );

    promise("HTTPS is to the name's certificate, and to no other", async () => {
      const made = await ensureCertificate({
        directory: join(directory, "tls"),
        hosts: ["hooks.example"],
      });
      const tls = { key: made.privateKeyPem, cert: made.certificatePem };
      const resolve = () => Promise.resolve(["127.0.0.1"]);
      for (const [host, trusted, problem] of [
        ["hooks.example", true, ""],
        ["other.example", true, expect.stringMatching(/ALTNAME|certificate|name/i)],
        ["hooks.example", false, expect.stringMatching(/CERT|SIGNATURE|ISSUER|certificate|self/i)],
      ] as const) {
        const to = await receiver(host, tls);
        const { happen, settle, deliverer } = await scene(to.url, {
          rules: { allow: loopback, http: false },
          resolve,
          ...(trusted ? { ca: made.certificatePem } : {}),
        });
        await happen("session.done");
        expect(await settle(1)).toMatchObject([
          { state: problem === "" ? "delivered" : "pending", problem },
        ]);
        expect(to.heard).toHaveLength(problem === "" ? 1 : 0);
        await deliverer.stop();
      }
    });

    promise("after a rotation both secrets sign, until the one before is over", async () => {
      const to = await receiver();
      const { happen, settle, webhooks, row, secret, by, deliverer } = await scene(to.url);
      const next = makeSecret();
      const sealed = secrets.seal(secretUse(row.id), new TextEncoder().encode(next));
      const rotated = await webhooks.rotate(row.id, row.version, sealed, 3600, by);
      expect(rotated?.version).toBe(row.version + 1);
      expect(await webhooks.rotate(row.id, row.version, sealed, 3600, by)).toBeUndefined();
      const signatures = async (): Promise<string[]> => {
        const before = to.heard.length;
        await happen("session.done");
        const another = async (): Promise<void> => {
          await settle();
          expect(to.heard.length).toBe(before + 1);
        };
        await vi.waitFor(another, { timeout: 15_000 });
        const { headers, body } = to.heard.at(-1) ?? { headers: {}, body: "" };
        const [t = "", ...given] = String(headers["memferry-signature"]).split(",");
        const by_ = (key: string) =>
          `v1=${createHmac("sha256", key)
            .update(`${t.slice(2)}.${body}`)
            .digest("hex")}`;
        return given.map((one) =>
          one === by_(next) ? "next" : one === by_(secret) ? "before" : "?",
        );
      };
      expect(await signatures()).toEqual(["next", "before"]);
      const again = await webhooks.rotate(row.id, rotated?.version ?? 0, sealed, 0, by);
      expect(again).toBeDefined();
      expect(await signatures()).toEqual(["next"]);
      await deliverer.stop();
    });

    promise(
      "a secret that was sealed under another key fails the delivery and says so",
      async () => {
        const to = await receiver();
        const { happen, settle, deliverer } = await scene(to.url, {
          secrets: createSecretBox(randomBytes(32)),
        });
        await happen("session.done");
        expect(await settle()).toMatchObject([
          { state: "failed", problem: expect.stringContaining("rotate") },
        ]);
        expect(to.heard).toEqual([]);
        await deliverer.stop();
      },
    );

    promise("a test goes to its webhook alone, whatever that wants to hear of", async () => {
      const [first, second] = [await receiver(), await receiver()];
      const { webhooks, row, by, settle, deliverer } = await scene(first.url, {}, [
        "migration.done",
      ]);
      const other = toHex(randomBytes(16));
      await webhooks.create(
        {
          id: other,
          url: second.url,
          eventTypes: ["*"],
          enabled: true,
          sealedSecret: secrets.seal(secretUse(other), randomBytes(8)),
        },
        by,
      );
      await webhooks.test(row);
      expect(await settle()).toMatchObject([{ type: "webhook.test", state: "delivered" }]);
      await deliverer.look();
      expect(second.heard).toEqual([]);
      expect(await webhooks.deliveries(other, { limit: 10 })).toEqual([]);
      await deliverer.stop();
    });

    promise(
      "an event whose transaction ends after that of a later number is delivered, and none twice",
      async () => {
        const to = await receiver();
        const { happen, deliveries, row } = await scene(to.url);
        if (database.kind === "pglite") {
          // One connection: transactions cannot overlap.
          await happen("session.a");
          await makeDeliveries(database);
          await makeDeliveries(database);
          expect(await deliveries()).toHaveLength(1);
          return;
        }
        const [numbered, goOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
        const late = database.transaction(async (tx) => {
          // Not by `addProjectEvent`, which lets numbers of a project be given out in turn: deliveries rely on no lock.
          await tx.insert(projectEvent).values({
            projectId: row.projectId,
            type: "session.late",
            subjectKind: "session",
            subjectId: "5e",
          });
          numbered.resolve();
          await goOn.promise;
        });
        await numbered.promise;
        await happen("session.early");
        await makeDeliveries(database);
        expect((await deliveries()).map(({ type }) => type)).toEqual(["session.early"]);
        goOn.resolve();
        await late;
        await Promise.all([makeDeliveries(database), makeDeliveries(database)]);
        await makeDeliveries(database);
        expect(
          (await deliveries()).map(({ type }) => type).toSorted((a, b) => (a < b ? -1 : 1)),
        ).toEqual(["session.early", "session.late"]);
      },
    );

    promise("two relays that look at once deliver each event once", async () => {
      const to = await receiver();
      const { happen, settle, deliverer } = await scene(to.url);
      const twin = new Deliverer({
        database,
        secrets,
        rules: { allow: loopback, http: true },
        version: "0",
        log: () => {},
      });
      for (let i = 0; i < 20; i++) await happen("session.round");
      await Promise.all([deliverer.look(), twin.look()]);
      await settle();
      await twin.stop();
      await deliverer.stop();
      expect(to.heard).toHaveLength(20);
    });

    promise(
      "a webhook that is off hears nothing, and of nothing that happened meanwhile but what is pending",
      async () => {
        const to = await receiver();
        const { happen, webhooks, row, by, deliverer, deliveries } = await scene(to.url);
        const off = await webhooks.update(row.id, row.version, { enabled: false }, by);
        await happen("session.done");
        await deliverer.look();
        expect(await deliveries()).toEqual([]);
        expect(off?.enabled).toBe(false);
        expect(to.heard).toEqual([]);
        await deliverer.stop();
      },
    );

    promise(
      "another project's webhook is not there, and the 21st of a project is one too many",
      async () => {
        const { row, by, webhooks } = await scene("http://127.0.0.1:9/");
        const stranger = projectWebhooks(
          database,
          await createApiKeys(database).project(toHex(randomBytes(8))),
        );
        const strangersActor = { ...by, projectId: row.projectId };
        expect(await stranger.get(row.id)).toBeUndefined();
        expect(
          await stranger.update(row.id, row.version, { enabled: false }, strangersActor),
        ).toBeUndefined();
        expect(await stranger.remove(row.id, row.version, strangersActor)).toBe(false);
        expect(await stranger.deliveries(row.id, { limit: 10 })).toEqual([]);
        const more = (): Promise<WebhookRow> =>
          webhooks.create(
            {
              id: toHex(randomBytes(16)),
              url: "https://h.example",
              eventTypes: ["*"],
              enabled: true,
              sealedSecret: randomBytes(40),
            },
            by,
          );
        for (let i = 1; i < 20; i++) await more();
        await expect(more()).rejects.toMatchObject({ code: "LIMIT_EXCEEDED" });
        expect(await webhooks.list(undefined, 50)).toHaveLength(20);
        expect(await webhooks.remove(row.id, row.version, by)).toBe(true);
        await more();
      },
    );
  });
}

suite("PGlite", () => openDatabase({ memory: true }), "");

const { available, skipReason } = requireTool("postgres");
let server: TestPostgres | undefined;
suite(
  "PostgreSQL",
  async () => {
    server = await startPostgres();
    return await openDatabase({ url: server.url });
  },
  available ? "" : skipReason,
);
afterAll(() => server?.stop());

test("retryInMs() waits longer each time, up to an hour, with jitter", () => {
  const waits = Array.from({ length: 12 }, (_, i) => retryInMs(i + 1, () => 0.5));
  expect(waits.slice(0, 4)).toEqual([5_000, 15_000, 45_000, 135_000]);
  expect(waits.at(-1)).toBe(3_600_000);
  expect(retryInMs(1, () => 0)).toBe(3_750);
  expect(retryInMs(1, () => 1)).toBe(6_250);
});
