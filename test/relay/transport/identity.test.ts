import { createPublicKey, verify } from "node:crypto";
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { certificatesMessage } from "../../../relay/protocol/relay-certificates.ts";
import { ensureIdentity } from "../../../relay/transport/identity.ts";

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-identity-"));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

test("ensureIdentity() makes one key, for its owner alone, and keeps it", async () => {
  const made = await ensureIdentity(directory);
  expect(made.publicKey).toHaveLength(32);
  const [file = ""] = await readdir(directory);
  expect(await readdir(directory)).toEqual([file]);
  expect((await stat(join(directory, file))).mode & 0o777).toBe(0o600);
  expect((await ensureIdentity(directory)).publicKey).toEqual(made.publicKey);
});

test("RelayIdentity.vouch() signs the certificates together with the nonce", async () => {
  const identity = await ensureIdentity(directory);
  const certificates = [{ hash: new Uint8Array(32).fill(1), notBeforeMs: 5, notAfterMs: 9 }];
  const nonce = new Uint8Array(32).fill(2);
  const { signature } = identity.vouch(nonce, certificates);
  const prefix = Buffer.from("302a300506032b6570032100", "hex");
  const key = createPublicKey({
    key: Buffer.concat([prefix, identity.publicKey]),
    format: "der",
    type: "spki",
  });
  const checks = (with_: Uint8Array): boolean =>
    verify(null, certificatesMessage(with_, certificates), key, signature);
  expect(checks(nonce)).toBe(true);
  expect(checks(new Uint8Array(32).fill(3))).toBe(false);
});

// In silence, a new key would cut off every peer that knows the old one.
test("ensureIdentity() refuses a damaged key, names the file and leaves it as it is", async () => {
  await ensureIdentity(directory);
  const file = join(directory, (await readdir(directory))[0] ?? "");
  await writeFile(file, "-----BEGIN PRIVATE KEY-----\nAAAA\n");
  await expect(ensureIdentity(directory)).rejects.toMatchObject({
    code: "DATA_DIRECTORY_UNUSABLE",
    message: expect.stringContaining(file),
  });
  expect(await readFile(file, "utf8")).toContain("AAAA");
});
