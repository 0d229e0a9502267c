/** The store in a bucket, against a real server. */
import { readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";

import { S3Store, type S3Place } from "../../peer/store/s3-store.ts";
import { storeCompliance } from "../compliance/store.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import {
  because,
  S3_KEYS,
  s3Skip,
  startS3,
  type RunningServer,
} from "../support/stores/servers.ts";

const OPTIONS = { bytes: 24 << 20, blockBytes: 65_536, readOnly: false };
const skip = s3Skip();

function placeOf({ server }: RunningServer, prefix: string): S3Place {
  return { bucket: "bucket", prefix, endpoint: `http://127.0.0.1:${server.port}` };
}

describe.skipIf(skip !== undefined)(`on a server of its own${because(skip)}`, () => {
  beforeAll(() => {
    for (const [name, value] of Object.entries(S3_KEYS)) vi.stubEnv(name, value);
  });
  afterAll(() => void vi.unstubAllEnvs());

  storeCompliance(
    "s3",
    async () => {
      const running = await startS3();
      return {
        open: async (name, options) => await S3Store.open(placeOf(running, name), options),
        close: () => running.close(),
      };
    },
    { lasting: true, tellsUnwritten: true },
  );

  describe("s3", () => {
    let running: RunningServer;
    beforeAll(async () => void (running = await startS3()));
    afterAll(() => running.close());
    const open = async (prefix: string, options: Partial<typeof OPTIONS> = {}): Promise<S3Store> =>
      await S3Store.open(placeOf(running, prefix), { ...OPTIONS, ...options });
    const objects = (prefix: string): string[] =>
      readdirSync(path.join(running.folder, "data/bucket", prefix), {
        recursive: true,
        encoding: "utf8",
      }).filter((name) => /\d{4}$/.test(name));

    test("what rests together is packed when it is closed, and read by ranges", async () => {
      const store = await open("packed");
      const content = new SeededRandom(5).bytes(8 << 20);
      for (let at = 0; at < content.length; at += 1 << 20)
        await store.write(at, content.subarray(at, at + (1 << 20)));
      await store.write(20 << 20, content.subarray(0, 65_536));
      await store.close();
      expect(objects("packed").sort()).toEqual(["b/000000000320", "p/000000000000"]);
      const again = await open("packed");
      const into = new Uint8Array(1 << 20);
      expect(await again.read(3 << 20, into)).toBe(true);
      expect(Buffer.compare(into, content.subarray(3 << 20, 4 << 20))).toBe(0);
      // Newer than the pack, and zeros that the pack must not bring back.
      await again.write(3 << 20, new Uint8Array(65_536).fill(7));
      await again.writeZeroes((3 << 20) + 65_536, 65_536);
      await again.close();
      const last = await open("packed", { readOnly: true });
      await last.read(3 << 20, into);
      expect(into.subarray(0, 65_536).every((byte) => byte === 7)).toBe(true);
      expect(into.subarray(65_536, 131_072).every((byte) => byte === 0)).toBe(true);
      expect(
        Buffer.compare(into.subarray(131_072), content.subarray((3 << 20) + 131_072, 4 << 20)),
      ).toBe(0);
      await last.close();
    });

    test("a second writer is refused, a reader is not", async () => {
      const store = await open("shared");
      await expect(open("shared")).rejects.toMatchObject({ code: "STORE_FENCED" });
      await (await open("shared", { readOnly: true })).close();
      await store.close();
      await (await open("shared")).close();
    });

    test("a bucket that is not there, and wrong credentials", async () => {
      await expect(
        S3Store.open({ ...placeOf(running, "x"), bucket: "nowhere" }, OPTIONS),
      ).rejects.toMatchObject({ code: "STORE_MISSING" });
      vi.stubEnv("AWS_SECRET_ACCESS_KEY", "wrong-word");
      const failure: unknown = await open("y").catch((error: unknown) => error);
      vi.stubEnv("AWS_SECRET_ACCESS_KEY", S3_KEYS.AWS_SECRET_ACCESS_KEY);
      expect(failure).toMatchObject({ code: "STORE_DENIED" });
      expect(String(failure)).not.toContain("wrong-word");
    });

    test("a block that was taken away behind its back is an error, and not zeros", async () => {
      const store = await open("robbed");
      await store.write(0, new Uint8Array(65_536).fill(1));
      rmSync(path.join(running.folder, "data/bucket/robbed/b/000000000000"));
      await expect(store.read(0, new Uint8Array(65_536))).rejects.toMatchObject({
        code: "STORE_MISSING",
      });
      await store.close();
    });

    test("a server that is restarted is found again", async () => {
      const store = await open("restarted");
      await store.write(0, new Uint8Array(65_536).fill(9));
      await running.server.stop("SIGKILL");
      await expect(store.read(0, new Uint8Array(65_536))).rejects.toMatchObject({
        code: "STORE_UNAVAILABLE",
      });
      await running.server.start();
      const into = new Uint8Array(65_536);
      await store.read(0, into);
      expect(into.every((byte) => byte === 9)).toBe(true);
      await store.close();
    });
  });
});
