import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tls from "node:tls";
import { afterEach, beforeEach, expect, test } from "vitest";
import { dialWebSocket } from "../../../peer/net/websocket-link.ts";
import { dialWebTransport } from "../../../peer/net/webtransport-link.ts";
import { loadWebTransportClient } from "../../../peer/net/webtransport.ts";
import { CertificateKeeper } from "../../../relay/transport/certificate-keeper.ts";
import { ensureCertificate, type RelayCertificate } from "../../../relay/transport/certificate.ts";
import { testListener } from "../../compliance/link-support.ts";

const hasWebTransport = !("unavailable" in (await loadWebTransportClient()));
let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-renewal-"));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

function certificate(name: string): Promise<RelayCertificate> {
  return ensureCertificate({ directory: join(directory, name), hosts: ["127.0.0.1"] });
}

function shownBy(port: number): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host: "127.0.0.1", port, rejectUnauthorized: false }, () => {
      const { raw } = socket.getPeerCertificate();
      setImmediate(() => socket.destroy());
      resolve(new Uint8Array(createHash("sha256").update(raw).digest()));
    });
    socket.on("error", reject);
  });
}

// Deno's client resumes TLS sessions, and then reports the certificate of the first: runtimes.test.ts asks it from Node.
test.runIf(!("Deno" in globalThis))(
  "Listener.renew() shows the new certificate on TLS, and open streams go on",
  async () => {
    const [first, second] = [await certificate("first"), await certificate("second")];
    const relay = await testListener({ certificate: first, webTransport: "off" });
    const link = await dialWebSocket({ url: relay.url, certificateHashes: [first.hash] });
    const stream = await link.openStream();
    const { stream: other } = await relay.arrivals.next();

    await relay.listener.renew(second);
    expect(await shownBy(relay.listener.https.port)).toEqual(second.hash);
    await stream.write(Uint8Array.of(1));
    expect(await other.read()).toEqual(Uint8Array.of(1));

    await expect(
      dialWebSocket({ url: relay.url, certificateHashes: [first.hash] }),
    ).rejects.toMatchObject({ code: "CERTIFICATE_MISMATCH" });
    const next = await dialWebSocket({ url: relay.url, certificateHashes: [second.hash] });
    await next.close("OK", "done");
    await link.close("OK", "done");
    await relay.close();
  },
);

test.runIf(hasWebTransport)(
  "Listener.renew() shows the new certificate on WebTransport, on the same port",
  async () => {
    const [first, second] = [await certificate("first"), await certificate("second")];
    const problems: string[] = [];
    const relay = await testListener({
      certificate: first,
      onProblem: ({ message }) => problems.push(message),
    });
    const before = relay.listener.webTransport;
    const link = await dialWebTransport({ url: relay.url, certificateHashes: [first.hash] });
    const stream = await link.openStream();
    await stream.write(Uint8Array.of(1));
    const { stream: other } = await relay.arrivals.next();
    expect(await other.read()).toEqual(Uint8Array.of(1));

    await relay.listener.renew(second);
    expect(relay.listener.webTransport).toEqual(before);
    const next = await dialWebTransport({ url: relay.url, certificateHashes: [second.hash] });
    if ("name" in before && before.name === "deno") {
      await stream.write(Uint8Array.of(2));
      expect(await other.read()).toEqual(Uint8Array.of(2));
    } else {
      // This library cannot change its certificate: the peer is told at once, and comes back.
      expect((await stream.closed).code).toBe("RELAY_DRAINING");
    }
    await expect(
      dialWebTransport({ url: relay.url, certificateHashes: [first.hash] }),
    ).rejects.toMatchObject({ code: "CERTIFICATE_MISMATCH" });
    await next.close("OK", "done");
    await link.close("OK", "done");
    await relay.close();
    expect(problems).toEqual([]);
  },
);

test("CertificateKeeper names both certificates while they change, and tries again after a failure", async () => {
  const [first, second] = [await certificate("first"), await certificate("second")];
  let due = first;
  let fails = true;
  const problems: string[] = [];
  const seen: number[] = [];
  const keeper = new CertificateKeeper({
    certificate: first,
    ensure: () => Promise.resolve(due),
    onRenewed: () => {
      seen.push(keeper.notices.length);
      return fails ? Promise.reject(new Error("not now")) : Promise.resolve();
    },
    onProblem: (reason) => problems.push(reason),
  });
  const hashes = (): Uint8Array[] => keeper.notices.map(({ hash }) => hash);
  await keeper.check();
  expect(hashes()).toEqual([first.hash]);
  expect(seen).toEqual([]);
  due = second;
  await keeper.check();
  // Half of the listeners may show it already.
  expect(hashes()).toEqual([second.hash, first.hash]);
  expect(problems).toEqual(["not now"]);
  fails = false;
  await keeper.check();
  expect(hashes()).toEqual([second.hash]);
  await keeper.check();
  expect(seen).toEqual([2, 2]);
  await keeper.stop();
});
