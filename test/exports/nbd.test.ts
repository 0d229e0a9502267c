/** The NBD server as the programs of others see it: libnbd's, QEMU's and fio's. */
import { writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import path from "node:path";

import { beforeEach, describe, expect, onTestFinished, test } from "vitest";

import type { NativeRegion, NbdAddress } from "../../native/index.ts";
import { NbdPlace } from "../../peer/export/nbd.ts";
import type { NbdTlsOptions } from "../../peer/export/nbd-tls.ts";
import { requireTool, skipUnless } from "../support/requires.ts";
import { contentOf, farRegion, image, nearRegion, run, temporaryFolder } from "./support.ts";

const MIB = 1 << 20;

function show(
  region: NativeRegion,
  address: NbdAddress = { path: path.join(temporaryFolder(), "nbd.sock") },
  tls?: NbdTlsOptions,
): string {
  const place = new NbdPlace(address, tls);
  onTestFinished(() => place.close());
  place.add("disk", region);
  return place.pathOf("disk");
}

const kinds = {
  "a region that is all here": nearRegion,
  "a region whose chunks are elsewhere": (content: Buffer) =>
    Promise.resolve(farRegion(content).region),
};

describe.each(Object.entries(kinds))("%s", (_, make) => {
  beforeEach((ctx) => {
    skipUnless(
      ctx,
      ...(["nbdinfo", "nbdcopy", "qemu-img", "fio"] as const).map((tool) => requireTool(tool)),
    );
  });

  test("nbdinfo: size, flags, list and maps", async () => {
    const uri = show(await make(image(8 * MIB)));
    const [info] = (
      JSON.parse(await run("nbdinfo", ["--json", uri])) as { exports: Record<string, unknown>[] }
    ).exports;
    expect(info).toMatchObject({
      "export-name": "disk",
      "export-size": 8 * MIB,
      contexts: ["base:allocation", "memferry:dirty"],
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
    });
    expect(await run("nbdinfo", ["--size", uri])).toBe(`${8 * MIB}\n`);
    expect(await run("nbdinfo", ["--list", uri])).toContain('export="disk"');
    const map = JSON.parse(await run("nbdinfo", ["--map", "--json", uri])) as {
      offset: number;
      length: number;
    }[];
    expect(map.reduce((sum, { length }) => sum + length, 0)).toBe(8 * MIB);
    const dirty = await run("nbdinfo", ["--map=memferry:dirty", uri]);
    expect(dirty.trim()).toMatch(/^0\s+8388608\s+0/);
  });

  test.each([1, 4])("nbdcopy both ways with %i connections", async (connections) => {
    const content = image(40 * MIB + 512);
    const uri = show(await make(content));
    const file = path.join(temporaryFolder(), "copy");
    await run("nbdcopy", [`--connections=${connections}`, uri, file]);
    expect((await readFile(file)).equals(content)).toBe(true);
    const other = image(content.length).reverse();
    writeFileSync(file, other);
    const target = await make(content);
    await run("nbdcopy", [`--connections=${connections}`, file, show(target)]);
    expect((await contentOf(target)).equals(other)).toBe(true);
  });

  test("qemu-img convert, compare and bench", async () => {
    const uri = show(await make(image(32 * MIB)));
    const file = path.join(temporaryFolder(), "copy.qcow2");
    await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", uri, file]);
    expect(await run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", uri, file])).toContain(
      "identical",
    );
    const target = show(await make(Buffer.alloc(32 * MIB)));
    await run("qemu-img", ["convert", "-n", "-f", "qcow2", "-O", "raw", file, target]);
    expect(await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", uri, target])).toContain(
      "identical",
    );
    for (const write of [[], ["-w"]]) {
      const bench = ["bench", "-f", "raw", "-c", "2000", "-d", "32", "-s", "4k", ...write, target];
      expect(await run("qemu-img", bench)).toContain("Run completed");
    }
  });

  test("qemu-io with patterns, discards and zeroes at odd places", async () => {
    const uri = show(await make(image(16 * MIB)));
    const commands = [
      "write -P 0x5a 12345 77777",
      "read -P 0x5a 12345 77777",
      "write -f -P 0x11 1M 1M",
      "aio_write -P 0x22 3M 4k",
      "aio_write -P 0x33 5M 1M",
      "aio_flush",
      "read -P 0x22 3M 4k",
      "read -P 0x33 5M 1M",
      "write -z -u 1M 512k",
      "read -P 0 1M 512k",
      "read -P 0x11 1536k 512k",
      "discard 5M 1M",
      "flush",
    ];
    const output = await run("qemu-io", [
      "-f",
      "raw",
      ...commands.flatMap((command) => ["-c", command]),
      uri,
    ]);
    expect(output).not.toMatch(/fail|error/i);
  });

  test.each([
    ["randrw", "4k"],
    ["randrw", "64k"],
    ["write", "1m"],
  ])("fio verifies what it wrote: %s of %s at depth 32", async (rw, bs) => {
    const uri = show(await make(image(48 * MIB)));
    const output = await run("fio", [
      "--name=verify",
      "--ioengine=nbd",
      `--uri=${uri}`,
      `--rw=${rw}`,
      `--bs=${bs}`,
      "--size=48M",
      "--iodepth=32",
      "--verify=crc32c",
      "--verify_fatal=1",
      "--verify_state_save=0",
      "--do_verify=1",
    ]);
    expect(output).toMatch(/err= 0/);
  });
});

test("a chunk is fetched once, however many clients ask", async (ctx) => {
  skipUnless(ctx, requireTool("nbdcopy"));
  const { region, fetched } = farRegion(image(16 * MIB));
  const uri = show(region);
  await Promise.all(
    [1, 2, 3].map(() => run("nbdcopy", ["--connections=4", "--allocated", uri, "null:"])),
  );
  expect(fetched.length).toBe(new Set(fetched).size);
  expect(fetched).toHaveLength(region.chunkCount);
});

describe("TLS", () => {
  beforeEach((ctx) => {
    skipUnless(ctx, requireTool("nbdinfo"), requireTool("openssl"), requireTool("psktool"));
  });

  async function authority(folder: string, name: string): Promise<void> {
    const at = (file: string): string => path.join(folder, file);
    await run("openssl", [
      ..."req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(" "),
      "-subj",
      `/CN=${name}`,
      "-keyout",
      at(`${name}.key`),
      "-out",
      at(`${name}.pem`),
    ]);
  }

  async function certificate(folder: string, name: string, by: string): Promise<void> {
    const at = (file: string): string => path.join(folder, file);
    writeFileSync(at("ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    await run("openssl", [
      ..."req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost".split(" "),
      "-keyout",
      at(`${name}-key.pem`),
      "-out",
      at(`${name}.csr`),
    ]);
    await run("openssl", [
      "x509",
      "-req",
      "-days",
      "2",
      "-CAcreateserial",
      "-extfile",
      at("ext"),
      "-in",
      at(`${name}.csr`),
      "-CA",
      at(`${by}.pem`),
      "-CAkey",
      at(`${by}.key`),
      "-out",
      at(`${name}-cert.pem`),
    ]);
  }

  const withFiles = (uri: string, query: string): string =>
    `${uri}${uri.includes("?") ? "&" : "?"}${query}`;
  const refusal = (args: readonly string[]): Promise<string> =>
    run("nbdinfo", args).then(
      () => "accepted",
      (error: unknown) => String(error),
    );

  test("certificates: the right one is served, a wrong one and none are not", async () => {
    const folder = temporaryFolder();
    await authority(folder, "ca-cert");
    await authority(folder, "other");
    await certificate(folder, "server", "ca-cert");
    await certificate(folder, "client", "ca-cert");
    const wrong = temporaryFolder();
    await authority(wrong, "ca-cert");
    const content = image(8 * MIB);
    const uri = show(
      await nearRegion(content),
      { host: "127.0.0.1", port: 0 },
      {
        kind: "certificate",
        certificate: path.join(folder, "server-cert.pem"),
        key: path.join(folder, "server-key.pem"),
        clientAuthority: path.join(folder, "ca-cert.pem"),
      },
    );
    const good = withFiles(uri, `tls-certificates=${folder}`);
    expect(await run("nbdinfo", ["--size", good])).toBe(`${8 * MIB}\n`);
    const file = path.join(folder, "copy");
    await run("nbdcopy", [good, file]);
    expect((await readFile(file)).equals(content)).toBe(true);
    // Whom the client does not trust, whom the server does not trust, and somebody without TLS.
    expect(await refusal([withFiles(uri, `tls-certificates=${wrong}`)])).toMatch(
      /certificate|TLS/i,
    );
    expect(await refusal([uri.replace("nbds:", "nbd:")])).toMatch(/not supported|TLS/i);
    const nobody = temporaryFolder();
    writeFileSync(
      path.join(nobody, "ca-cert.pem"),
      await readFile(path.join(folder, "ca-cert.pem")),
    );
    expect(await refusal([withFiles(uri, `tls-certificates=${nobody}`)])).not.toBe("accepted");
    expect(await run("nbdinfo", ["--size", good])).toBe(`${8 * MIB}\n`);
  });

  test("pre-shared keys: the right one is served, a wrong one is not", async () => {
    const folder = temporaryFolder();
    const keys = path.join(folder, "keys.psk");
    const wrong = path.join(folder, "wrong.psk");
    for (const file of [keys, wrong]) await run("psktool", ["-u", "alice", "-p", file]);
    const content = image(8 * MIB);
    const uri = show(
      await nearRegion(content),
      { host: "127.0.0.1", port: 0 },
      { kind: "psk", file: keys },
    ).replace("nbds://", "nbds://alice@");
    const file = path.join(folder, "copy");
    await run("nbdcopy", [withFiles(uri, `tls-psk-file=${keys}`), file]);
    expect((await readFile(file)).equals(content)).toBe(true);
    expect(await refusal([withFiles(uri, `tls-psk-file=${wrong}`)])).toMatch(/TLS|handshake/i);
  });

  test("what is wrong with the files is said at once", () => {
    const folder = temporaryFolder();
    const bad = path.join(folder, "bad");
    writeFileSync(bad, "nonsense");
    const open = (tls: NbdTlsOptions): (() => unknown) => {
      return () => new NbdPlace({ path: path.join(folder, "s") }, tls);
    };
    expect(open({ kind: "certificate", certificate: "/missing", key: bad })).toThrow(/tls-cert/);
    expect(open({ kind: "certificate", certificate: bad, key: bad })).toThrow(/tls-cert/);
    expect(open({ kind: "psk", file: bad })).toThrow(/IDENTITY:HEX/);
  });
});
