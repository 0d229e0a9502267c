import { createSocket } from "node:dgram";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";

import { readConfig, type RelayConfig } from "../../../relay/config.ts";
import { checkConfig } from "../../../relay/config/check.ts";
import { startRelay } from "../../../relay/relay.ts";
import { ensureCertificate } from "../../../relay/transport/certificate.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-check-"));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

function config(options: Readonly<Record<string, string>> = {}): RelayConfig {
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]);
  const usual = ["--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0", "--no-user-config"];
  const data = ["--data", join(directory, "data")];
  const outcome = readConfig([...usual, ...data, ...args, "--check-config"], {});
  if (outcome.kind !== "check" || outcome.problems.length > 0) {
    throw new Error(JSON.stringify(outcome));
  }
  return outcome.config;
}

/** A certificate of the relay's own kind as the operator's files. */
async function files(name: string, now = Date.now()) {
  return await ensureCertificate({ directory: join(directory, name), hosts: ["localhost"], now });
}

test("checkConfig() finds nothing wrong with what would start, and leaves nothing behind", async () => {
  const { certificatePath, privateKeyPath } = await files("good");
  const good = config({
    certificate: certificatePath,
    "private-key": privateKeyPath,
    "public-url": "https://localhost:8443",
  });
  expect(await checkConfig(good)).toEqual({ problems: [], notes: [] });
  expect(await readdir(directory)).toEqual(["good"]);
});

test("checkConfig() names every problem at once: key, ports, database, directory, secret, names", async () => {
  const [first, second] = [await files("first"), await files("second")];
  const tcp = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => tcp.once("listening", resolve));
  const { port } = tcp.address() as AddressInfo;
  const udp = createSocket("udp4");
  await new Promise<void>((resolve) => udp.bind(0, "127.0.0.1", resolve));
  await writeFile(join(directory, "file"), "");
  await writeFile(join(directory, "secret"), "short");
  const { problems } = await checkConfig(
    config({
      certificate: first.certificatePath,
      "private-key": second.privateKeyPath,
      "public-url": "https://no-such-host.invalid",
      dashboard: `127.0.0.1:${port}`,
      "discovery-ports": `${udp.address().port},0`,
      data: join(directory, "file"),
      "secret-key-file": join(directory, "secret"),
      "database-url": "postgres://u:hunter2@127.0.0.1:1/db",
    }),
  );
  tcp.close();
  udp.close();
  const named = problems.map((line) => line.split(":")[0]);
  expect(named).toHaveLength(7);
  expect(new Set(named)).toEqual(
    new Set([
      "--certificate",
      "--dashboard",
      "--data",
      "--database-url",
      "--discovery-ports",
      "--public-url",
      "--secret-key-file",
    ]),
  );
  for (const line of problems) expect(line).not.toContain("hunter2");
});

test("checkConfig() refuses a certificate that is over, not yet good, or for another name", async () => {
  const check = async (made: { certificatePath: string; privateKeyPath: string }, url: string) =>
    (
      await checkConfig(
        config({
          certificate: made.certificatePath,
          "private-key": made.privateKeyPath,
          "public-url": url,
        }),
      )
    ).problems;
  const over = await files("over", Date.now() - 30 * DAY_MS);
  expect(await check(over, "https://localhost")).toEqual([
    expect.stringContaining("is over since"),
  ]);
  const early = await files("early", Date.now() + 30 * DAY_MS);
  expect(await check(early, "https://localhost")).toEqual([
    expect.stringContaining("is good from"),
  ]);
  const good = await files("good");
  expect(await check(good, "https://127.0.0.1")).toEqual([
    expect.stringContaining("not for 127.0.0.1"),
  ]);
});

test("checkConfig() says so and leaves the ports alone while a relay runs there", async () => {
  const running = await startRelay(config(), () => {});
  try {
    const port = new URL(running.url).port;
    const checked = await checkConfig(config({ listen: `127.0.0.1:${port}` }));
    expect(checked.problems).toEqual([]);
    expect(checked.notes).toEqual([expect.stringContaining(`process ${process.pid}`)]);
  } finally {
    await running.close();
  }
});

test("startRelay() does not start with the operator's secret that cannot be applied", async () => {
  const [first, second] = [await files("first"), await files("second")];
  await mkdir(join(directory, "empty"));
  const refused = (options: Readonly<Record<string, string>>) =>
    expect(startRelay(config(options), () => {})).rejects.toMatchObject({ code: "CONFIG_INVALID" });
  await refused({ certificate: first.certificatePath, "private-key": second.privateKeyPath });
  await refused({ certificate: first.certificatePath, "private-key": join(directory, "none") });
  await refused({ "secret-key-file": join(directory, "none") });
});
