import { X509Certificate } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tls from "node:tls";
import { afterEach, beforeEach, expect, test } from "vitest";

import { readConfig } from "../../../relay/config.ts";
import { startRelay } from "../../../relay/relay.ts";
import { AcmeCertificates, type AcmeOptions } from "../../../relay/transport/acme.ts";
import { startAuthority, type Authority } from "../../support/authority.ts";
import { requireTool, skipUnless } from "../../support/requires.ts";

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-acme-"));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

function certificates(
  { directoryUrl, caFile, challengePort }: Omit<Authority, typeof Symbol.asyncDispose>,
  options: Partial<AcmeOptions> = {},
): AcmeCertificates {
  return new AcmeCertificates({
    domains: ["relay.example.org", "other.example.org"],
    email: "ops@example.org",
    directoryUrl,
    caFile,
    challenge: { host: "127.0.0.1", port: challengePort },
    directory,
    log: () => {},
    ...options,
  });
}

test("AcmeCertificates has a certificate issued for all its names, keeps it, and renews it in its last third", async (ctx) => {
  skipUnless(ctx, requireTool("pebble"), requireTool("pebble-challtestsrv"));
  await using authority = await startAuthority(directory);
  // A little ahead: this authority's certificates are good from the moment they are made.
  let now = Date.now() + 60_000;
  const source = certificates(authority, { now: () => now });
  const first = await source.first();
  const leaf = new X509Certificate(first.certificatePem);
  for (const name of ["relay.example.org", "other.example.org"]) {
    expect(leaf.checkHost(name)).toBe(name);
  }
  // With the intermediate that peers need to find the root.
  expect(first.certificatePem.match(/BEGIN CERTIFICATE/g)?.length).toBeGreaterThan(1);
  for (const file of ["acme-account-key.pem", "acme-private-key.pem", "acme-certificate.pem"]) {
    expect([file, (await stat(join(directory, file))).mode & 0o777]).toEqual([file, 0o600]);
  }
  const account = await readFile(join(directory, "acme-account-key.pem"), "utf8");

  const lifeMs = first.notAfter.getTime() - first.notBefore.getTime();
  now = first.notBefore.getTime() + lifeMs * 0.6;
  expect((await source.ensure()).hash).toEqual(first.hash);
  now = first.notBefore.getTime() + lifeMs * 0.7;
  const second = await source.ensure();
  expect(second.hash).not.toEqual(first.hash);
  expect(await readFile(join(directory, "acme-account-key.pem"), "utf8")).toBe(account);

  // A name more is a certificate more; one less is not.
  now = Date.now();
  const fewer = certificates(authority, { domains: ["relay.example.org"] });
  expect((await fewer.ensure()).hash).toEqual(second.hash);
  const more = certificates(authority, { domains: ["relay.example.org", "third.example.org"] });
  expect((await more.ensure()).hash).not.toEqual(second.hash);
}, 60_000);

test("a relay that is configured for ACME shows what was issued, and its tickets pin nothing", async (ctx) => {
  skipUnless(ctx, requireTool("pebble"), requireTool("pebble-challtestsrv"));
  await using authority = await startAuthority(directory);
  const outcome = readConfig(
    [
      ["--listen", "127.0.0.1:0", "--dashboard", "off", "--no-user-config", "--no-webtransport"],
      ["--data", join(directory, "data"), "--discovery-ports", "none"],
      ["--acme-domains", "relay.example.org", "--acme-agree-terms"],
      ["--acme-directory", authority.directoryUrl, "--acme-ca-file", authority.caFile],
      ["--acme-challenge", `127.0.0.1:${authority.challengePort}`],
    ].flat(),
    {},
  );
  if (outcome.kind !== "config") throw new Error(JSON.stringify(outcome));
  // A little ahead, as above.
  const now = (): number => Date.now() + 60_000;
  const relay = await startRelay(outcome.config, () => {}, { now });
  try {
    expect(relay.certificateHashes).toEqual([]);
    const port = Number(new URL(relay.url).port);
    const names = await new Promise<string | undefined>((resolve, reject) => {
      const socket = tls.connect({ host: "127.0.0.1", port, rejectUnauthorized: false }, () => {
        const { subjectaltname } = socket.getPeerCertificate();
        setImmediate(() => socket.destroy());
        resolve(subjectaltname);
      });
      socket.on("error", reject);
    });
    expect(names).toBe("DNS:relay.example.org");
  } finally {
    await relay.close();
  }
}, 60_000);

test("AcmeCertificates says what kept it from being issued, and goes on with one that is good yet", async (ctx) => {
  skipUnless(ctx, requireTool("pebble"), requireTool("pebble-challtestsrv"));
  await using authority = await startAuthority(directory);
  // Somebody else answers on the port that the authority asks: its proof is none of ours.
  const wrong = createServer((_request, response) => void response.end("no")).listen(
    authority.challengePort,
    "127.0.0.1",
  );
  await new Promise((resolve) => wrong.once("listening", resolve));
  const elsewhere = certificates(authority, { challenge: { host: "127.0.0.1", port: 0 } });
  await expect(elsewhere.first()).rejects.toMatchObject({ code: "CERTIFICATE_UNAVAILABLE" });
  await expect(certificates(authority).first()).rejects.toThrow("EADDRINUSE");
  expect(await readdir(directory)).not.toContain("acme-certificate.pem");
  wrong.closeAllConnections();
  await new Promise((resolve) => wrong.close(resolve));

  const first = await certificates(authority).first();
  const said: string[] = [];
  const late = certificates(
    { ...authority, directoryUrl: "https://127.0.0.1:1/dir" },
    {
      now: () => first.notAfter.getTime() - 24 * 3_600_000,
      log: (_level, message) => said.push(message),
    },
  );
  await expect(late.ensure()).rejects.toMatchObject({ code: "CERTIFICATE_UNAVAILABLE" });
  expect((await late.first()).hash).toEqual(first.hash);
  expect(said).toContain("the certificate was not renewed");
  // A key that is not the certificate's any more is no certificate at all.
  await writeFile(join(directory, "acme-private-key.pem"), "");
  expect(await late.kept()).toBeUndefined();
}, 120_000);
