import { createHash } from "node:crypto";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tls from "node:tls";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { readConfig, type RelayConfig } from "../../../relay/config.ts";
import { startRelay } from "../../../relay/relay.ts";
import { ensureCertificate, type RelayCertificate } from "../../../relay/transport/certificate.ts";

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-operators-"));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

function shownBy(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host: "127.0.0.1", port, rejectUnauthorized: false }, () => {
      const { raw } = socket.getPeerCertificate();
      setImmediate(() => socket.destroy());
      resolve(createHash("sha256").update(raw).digest("hex"));
    });
    socket.on("error", reject);
  });
}

const hex = (certificate: RelayCertificate): string =>
  Buffer.from(certificate.hash).toString("hex");

// Deno's client resumes TLS sessions, and then reports the certificate of the first.
test.runIf(!("Deno" in globalThis))(
  "a relay shows the operator's certificate as soon as its files change, and keeps the old one while they are wrong",
  async () => {
    const make = (name: string) =>
      ensureCertificate({ directory: join(directory, name), hosts: ["127.0.0.1"] });
    const [first, second, third] = [await make("1"), await make("2"), await make("3")];
    const certificate = join(directory, "shown.pem");
    const key = join(directory, "shown-key.pem");
    /** As such files are replaced: never half of one. */
    const put = async (path: string, text: string): Promise<void> => {
      await writeFile(`${path}.new`, text);
      await rename(`${path}.new`, path);
    };
    await put(certificate, first.certificatePem);
    await put(key, first.privateKeyPem);
    const outcome = readConfig(
      [
        ["--listen", "127.0.0.1:0", "--dashboard", "off", "--no-user-config", "--no-webtransport"],
        ["--data", join(directory, "data"), "--discovery-ports", "none"],
        ["--certificate", certificate, "--private-key", key],
      ].flat(),
      {},
    );
    if (outcome.kind !== "config") throw new Error(JSON.stringify(outcome));
    const config: RelayConfig = outcome.config;
    const logged: string[] = [];
    const relay = await startRelay(
      config,
      (level, message, fields) => logged.push(`${level} ${message} ${JSON.stringify(fields)}`),
      { certificateCheckMs: 50 },
    );
    try {
      const port = Number(new URL(relay.url).port);
      expect(relay.certificateHashes).toEqual([]);
      expect(await shownBy(port)).toBe(hex(first));

      // The certificate before its key, as some tools leave it for a moment.
      await put(certificate, second.certificatePem);
      await vi.waitFor(() => expect(logged.join("\n")).toContain("is not the key of"));
      expect(await shownBy(port)).toBe(hex(first));
      await put(key, second.privateKeyPem);
      await vi.waitFor(async () => expect(await shownBy(port)).toBe(hex(second)));

      await put(certificate, "nonsense");
      await vi.waitFor(() => expect(logged.join("\n")).toContain("no certificate in PEM form"));
      const said = logged.length;
      // Said once, not at every look.
      await new Promise((resolve) => {
        setTimeout(resolve, 300);
      });
      expect(logged.slice(said).filter((line) => line.includes("not renewed"))).toEqual([]);
      expect(await shownBy(port)).toBe(hex(second));
      await put(key, third.privateKeyPem);
      await put(certificate, third.certificatePem);
      await vi.waitFor(async () => expect(await shownBy(port)).toBe(hex(third)));
      expect(logged.filter((line) => line.includes("certificate renewed"))).toHaveLength(2);
    } finally {
      await relay.close();
    }
  },
  60_000,
);
