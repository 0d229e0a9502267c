/** The store in Redis, against a real server. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { RedisStore } from "../../peer/store/redis-store.ts";
import { storeCompliance } from "../compliance/store.ts";
import {
  because,
  REDIS_PASSWORD,
  redisSkip,
  startRedis,
  type RunningServer,
} from "../support/stores/servers.ts";

const OPTIONS = { bytes: 1 << 20, blockBytes: 16_384, readOnly: false };

function urlOf({ server }: RunningServer, password = REDIS_PASSWORD): URL {
  return new URL(`redis://:${password}@127.0.0.1:${server.port}/0`);
}

describe.skipIf(redisSkip !== undefined)(`on a server of its own${because(redisSkip)}`, () => {
  storeCompliance(
    "redis",
    async () => {
      const running = await startRedis();
      return {
        open: async (store, options) =>
          await RedisStore.open({ url: urlOf(running), store }, options),
        close: () => running.close(),
      };
    },
    { lasting: true, tellsUnwritten: true },
  );

  describe("redis", () => {
    let running: RunningServer;
    beforeAll(async () => void (running = await startRedis()));
    afterAll(() => running.close());
    const open = async (
      store: string,
      options: Partial<typeof OPTIONS> = {},
    ): Promise<RedisStore> =>
      await RedisStore.open({ url: urlOf(running), store }, { ...OPTIONS, ...options });

    test("wrong credentials are said to be, and not shown", async () => {
      const failure: unknown = await RedisStore.open(
        { url: urlOf(running, "wrong-word"), store: "a" },
        OPTIONS,
      ).catch((error: unknown) => error);
      expect(failure).toMatchObject({ code: "STORE_DENIED" });
      expect(String(failure)).not.toContain("wrong-word");
      const store = await open("named");
      expect(store.name).not.toContain(REDIS_PASSWORD);
      await store.close();
    });

    test("a second writer is refused, a reader is not", async () => {
      const store = await open("shared");
      await expect(open("shared")).rejects.toMatchObject({ code: "STORE_FENCED" });
      const reader = await open("shared", { readOnly: true });
      await reader.close();
      await store.close();
      await (await open("shared")).close();
    });

    test("a writer that was taken over changes nothing any more", async () => {
      const { createClient } = await import("@redis/client");
      const store = await open("taken");
      const client = createClient({ url: urlOf(running).href });
      await client.connect();
      await client.set("memferry:{taken}:lease", "somebody else");
      await expect(store.write(0, new Uint8Array(16_384).fill(1))).rejects.toMatchObject({
        code: "STORE_FENCED",
      });
      expect(await client.exists("memferry:{taken}:0")).toBe(0);
      await client.del("memferry:{taken}:lease");
      // It expired, and nobody came.
      await store.write(0, new Uint8Array(16_384).fill(2));
      await store.close();
      await client.close();
    });

    test("a full one says so", async () => {
      const store = await open("full");
      const { createClient } = await import("@redis/client");
      const client = createClient({ url: urlOf(running).href });
      await client.connect();
      await client.configSet("maxmemory", "1mb");
      await expect(store.write(0, new Uint8Array(16_384).fill(1))).rejects.toMatchObject({
        code: "STORE_NO_SPACE",
      });
      await client.configSet("maxmemory", "0");
      await store.write(0, new Uint8Array(16_384).fill(1));
      await client.close();
      await store.close();
    });

    test("what is not its own is told", async () => {
      const { createClient } = await import("@redis/client");
      const client = createClient({ url: urlOf(running).href });
      await client.connect();
      await client.set("memferry:{odd}:meta", "hello");
      await expect(open("odd")).rejects.toMatchObject({ code: "STORE_MISMATCH" });
      const store = await open("short");
      await client.set("memferry:{short}:1", "abc");
      await expect(store.read(16_384, new Uint8Array(16_384))).rejects.toMatchObject({
        code: "STORE_CORRUPT",
      });
      await store.close();
      await client.close();
    });

    test("a server that is restarted is found again, with what was flushed", async () => {
      const store = await open("restarted");
      await store.write(0, new Uint8Array(16_384).fill(9));
      await store.flush();
      await running.server.stop("SIGKILL");
      await expect(store.read(0, new Uint8Array(16_384))).rejects.toMatchObject({
        code: "STORE_UNAVAILABLE",
      });
      await running.server.start();
      const into = new Uint8Array(16_384);
      await expect
        .poll(async () => await store.read(0, into).catch(() => undefined), { timeout: 20_000 })
        .toBe(true);
      expect(into.every((byte) => byte === 9)).toBe(true);
      await store.close();
    });

    test("a server that is not there", async () => {
      await expect(
        RedisStore.open({ url: new URL("redis://127.0.0.1:1/0"), store: "a" }, OPTIONS),
      ).rejects.toMatchObject({
        code: "STORE_UNAVAILABLE",
      });
    });
  });
});
