import { createServer, type AddressInfo } from "node:net";
import * as tls from "node:tls";
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { parseRelayUrl } from "../../../peer/net/address.ts";
import { ApiClient } from "../../../peer/net/api-client.ts";
import { proxyFor } from "../../../peer/net/proxy.ts";
import { dialWebSocket } from "../../../peer/net/websocket-link.ts";
import { testCertificate, testListener, type TestListener } from "../../compliance/link-support.ts";
import { connectProxy, type ConnectProxy } from "./connect-proxy.ts";

let relay: TestListener;
let proxy: ConnectProxy;

beforeEach(async () => {
  for (const name of ["https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"]) {
    vi.stubEnv(name, undefined);
  }
  relay = await testListener({
    webTransport: "off",
    requestListener: (_request, response) => response.end(JSON.stringify({ items: [] })),
  });
  proxy = await connectProxy();
});
afterEach(async () => {
  vi.unstubAllEnvs();
  proxy.close();
  await relay.close();
});

const options = () => ({ url: relay.url, certificateHashes: [relay.certificate.hash] });

async function echoes(): Promise<void> {
  const link = await dialWebSocket(options());
  const near = await link.openStream();
  const [far] = await Promise.all([relay.arrivals.next(), near.write(Uint8Array.of(1, 2, 3))]);
  expect(await far.stream.read()).toEqual(Uint8Array.of(1, 2, 3));
  await link.close("OK", "done");
}

describe("HTTPS_PROXY", () => {
  test("carries a link, with user and password, to the relay whose certificate is known", async () => {
    vi.stubEnv("HTTPS_PROXY", `http://ferry%40host:p%3Ass@${proxy.host}`);
    await echoes();
    expect(proxy.asked.length).toBeGreaterThan(0);
    expect(proxy.asked[0]).toEqual({
      target: new URL(relay.url).host,
      credentials: "ferry@host:p:ss",
    });
  });

  test("may be a proxy that speaks TLS itself", async () => {
    const certificate = await testCertificate();
    const before = tls.getCACertificates("default");
    tls.setDefaultCACertificates([...before, certificate.certificatePem]);
    onTestFinished(() => tls.setDefaultCACertificates(before));
    const secure = await connectProxy(certificate);
    onTestFinished(() => secure.close());
    vi.stubEnv("https_proxy", `https://${secure.host}`);
    await echoes();
    expect(secure.asked.length).toBeGreaterThan(0);
  });

  test("carries the REST API", async () => {
    vi.stubEnv("HTTPS_PROXY", `http://${proxy.host}`);
    const client = new ApiClient({ ...options(), key: "k" });
    expect(await client.listSessions("")).toEqual({ sessions: [], next: undefined });
    expect(proxy.asked).toHaveLength(1);
  });

  test("does not soften the check of the certificate", async () => {
    vi.stubEnv("HTTPS_PROXY", `http://${proxy.host}`);
    const wrong = { ...options(), certificateHashes: [new Uint8Array(32)] };
    await expect(dialWebSocket(wrong)).rejects.toMatchObject({ code: "CERTIFICATE_MISMATCH" });
    expect(proxy.asked.length).toBeGreaterThan(0);
  });

  test.each([
    [407, "USER:PASSWORD"],
    [403, "rules"],
    [502, "does not reach the relay"],
    [500, "NO_PROXY"],
  ])(
    "a proxy that answers %i is named with what to do, and the password is not",
    async (status, cure) => {
      proxy.status = status;
      const secret = status === 407 ? "" : "me:hunter2@";
      vi.stubEnv("HTTPS_PROXY", `http://${secret}${proxy.host}`);
      const error: unknown = await dialWebSocket(options()).catch((cause: unknown) => cause);
      expect(error).toMatchObject({ code: "PROXY_REFUSED" });
      expect(String(error)).toContain(`${status}`);
      expect(String(error)).toContain(cure);
      expect(String(error)).not.toContain("hunter2");
    },
  );

  test("a proxy that is not there, or is none, is an error that says so", async () => {
    vi.stubEnv("HTTPS_PROXY", "http://127.0.0.1:9");
    await expect(dialWebSocket(options())).rejects.toMatchObject({ code: "PROXY_UNREACHABLE" });
    const mute = createServer((socket) => socket.end("220 mail ready\r\n\r\n"));
    await new Promise<void>((resolve) => {
      mute.listen(0, "127.0.0.1", resolve);
    });
    onTestFinished(() => void mute.close());
    vi.stubEnv("HTTPS_PROXY", `http://127.0.0.1:${(mute.address() as AddressInfo).port}`);
    await expect(dialWebSocket(options())).rejects.toMatchObject({ code: "PROXY_REFUSED" });
    vi.stubEnv("HTTPS_PROXY", "socks5://me:hunter2@127.0.0.1:9");
    const error: unknown = await dialWebSocket(options()).catch((cause: unknown) => cause);
    expect(error).toMatchObject({ code: "PROXY_INVALID" });
    expect(String(error)).not.toContain("hunter2");
  });

  test("a proxy that does not answer is given up at the deadline", async () => {
    const mute = createServer(() => {});
    await new Promise<void>((resolve) => {
      mute.listen(0, "127.0.0.1", resolve);
    });
    onTestFinished(() => void mute.close());
    vi.stubEnv("HTTPS_PROXY", `http://127.0.0.1:${(mute.address() as AddressInfo).port}`);
    await expect(dialWebSocket({ ...options(), deadlineMs: 200 })).rejects.toMatchObject({
      code: "DEADLINE_EXCEEDED",
    });
  });

  test("is not used for what NO_PROXY names", async () => {
    vi.stubEnv("HTTPS_PROXY", "http://127.0.0.1:9");
    vi.stubEnv("NO_PROXY", "example.org,127.0.0.0/8");
    await echoes();
  });
});

test.each([
  ["relay.example.org", "", false],
  ["relay.example.org", "example.org", true],
  ["relay.example.org", ".example.org", true],
  ["relay.example.org", "*.example.org", true],
  ["relay.example.org", "RELAY.example.ORG", true],
  ["relay.example.org", "ample.org", false],
  ["relay.example.org", "example.org:443", false],
  ["relay.example.org", "example.org:8443", true],
  ["relay.example.org", "other.org, *", true],
  ["10.1.2.3", "10.0.0.0/8", true],
  ["11.1.2.3", "10.0.0.0/8 10.1.2.3", false],
  ["10.1.2.3", "2.3", false],
  ["[fd00::1]", "fd00::/8", true],
  ["[fd00::1]", "fd00::1", true],
  ["[fd00::1]", "[fd00::1]:8443", true],
  ["10.1.2.3", "10.0.0.0/nonsense", false],
])("proxyFor() %s with NO_PROXY=%s: excepted %s", (host, exceptions, isExcepted) => {
  const address = parseRelayUrl(`https://${host}:8443`);
  const found = proxyFor(address, { proxy: "proxy.example:3128", exceptions });
  expect(found === undefined).toBe(isExcepted);
  if (found !== undefined) expect(found).toMatchObject({ host: "proxy.example", port: 3128 });
});
