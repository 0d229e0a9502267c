import { X509Certificate, createPrivateKey } from "node:crypto";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  CERTIFICATE_LIFETIME_DAYS,
  ensureCertificate,
  loadCertificate,
} from "../../../relay/transport/certificate.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-certificate-"));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

test("ensureCertificate() makes what WebTransport takes by its hash", async () => {
  const hosts = ["127.0.0.1", "relay.example", "::1", "fe80::1:2"];
  const made = await ensureCertificate({ directory, hosts });
  const read = new X509Certificate(made.certificatePem);
  expect(read.checkPrivateKey(createPrivateKey(made.privateKeyPem))).toBe(true);
  expect(read.verify(read.publicKey)).toBe(true);
  expect(read.ca).toBe(false);
  expect(read.publicKey.asymmetricKeyDetails).toMatchObject({ namedCurve: "prime256v1" });
  expect(Date.parse(read.validTo)).toBe(made.notAfter.getTime());
  expect(Date.parse(read.validFrom)).toBe(made.notBefore.getTime());
  const days = (made.notAfter.getTime() - made.notBefore.getTime()) / DAY_MS;
  expect(days).toBe(CERTIFICATE_LIFETIME_DAYS);
  expect(Buffer.from(made.hash).toString("hex").toUpperCase()).toBe(
    read.fingerprint256.replaceAll(":", ""),
  );
  expect(read.checkHost("relay.example")).toBe("relay.example");
  expect(read.checkIP("127.0.0.1")).toBe("127.0.0.1");
  expect(read.checkIP("::1")).toBeDefined();
  expect((await stat(made.privateKeyPath)).mode & 0o777).toBe(0o600);
});

test("ensureCertificate() keeps a certificate until three days before its end", async () => {
  const now = Date.now();
  const first = await ensureCertificate({ directory, hosts: ["a.example"], now });
  const later = { directory, hosts: ["a.example"], now: now + 8.9 * DAY_MS };
  expect((await ensureCertificate(later)).hash).toEqual(first.hash);
  const latest = { directory, hosts: ["a.example"], now: now + 9.1 * DAY_MS };
  expect((await ensureCertificate(latest)).hash).not.toEqual(first.hash);
});

test("ensureCertificate() makes a new one for another host, and for a pair that does not match", async () => {
  const first = await ensureCertificate({ directory, hosts: ["a.example"] });
  const other = await ensureCertificate({ directory, hosts: ["a.example", "b.example"] });
  expect(other.hash).not.toEqual(first.hash);
  // A crash between the two files.
  await writeFile(other.privateKeyPath, first.privateKeyPem);
  const again = await ensureCertificate({ directory, hosts: ["b.example"] });
  expect(again.hash).not.toEqual(other.hash);
  expect(again.privateKeyPem).toBe(await readFile(again.privateKeyPath, "utf8"));
});

test("loadCertificate() says which file is not a certificate", async () => {
  const { certificatePath, privateKeyPath } = await ensureCertificate({ directory, hosts: ["a"] });
  const junk = Buffer.from("30820100300102", "hex").toString("base64");
  const pem = `-----BEGIN CERTIFICATE-----\n${junk}\n-----END CERTIFICATE-----\n`;
  await writeFile(certificatePath, pem);
  await expect(loadCertificate({ certificatePath, privateKeyPath })).rejects.toThrow(
    certificatePath,
  );
});
