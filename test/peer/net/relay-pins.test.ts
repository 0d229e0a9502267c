import { generateKeyPairSync } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import type { RequestListener } from "node:http";
import { connect as connectTcp } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parseRelayUrl } from "../../../peer/net/address.ts";
import { dialLink } from "../../../peer/net/dial.ts";
import type { Dial } from "../../../peer/net/link.ts";
import { relayIdentityOf } from "../../../peer/net/relay-pins.ts";
import { dialWebSocket } from "../../../peer/net/websocket-link.ts";
import { dialWebTransport } from "../../../peer/net/webtransport-link.ts";
import { loadWebTransportClient } from "../../../peer/net/webtransport.ts";
import { fromBase64Url } from "../../../relay/protocol/bytes.ts";
import {
  decodeNonce,
  encodeSignedCertificates,
  type CertificateNotice,
  type SignedCertificates,
} from "../../../relay/protocol/relay-certificates.ts";
import { ensureCertificate, type RelayCertificate } from "../../../relay/transport/certificate.ts";
import { RelayIdentity } from "../../../relay/transport/identity.ts";
import { testListener, type TestListener } from "../../compliance/link-support.ts";

const hasWebTransport = !("unavailable" in (await loadWebTransportClient()));

let directory: string;
let identity: RelayIdentity;
let relay: TestListener;
let first: RelayCertificate;
let second: RelayCertificate;
/** How the relay, or who is in its place, answers. */
let answer: (nonce: Uint8Array) => SignedCertificates | string;
let questions: number;

const noticeOf = ({ hash, notBefore, notAfter }: RelayCertificate): CertificateNotice => ({
  hash,
  notBeforeMs: notBefore.getTime(),
  notAfterMs: notAfter.getTime(),
});

const requestListener: RequestListener = (request, response) => {
  questions++;
  const { searchParams } = new URL(request.url ?? "", "https://relay");
  const said = answer(decodeNonce(searchParams.get("nonce") ?? undefined));
  response.end(typeof said === "string" ? said : encodeSignedCertificates(said));
};

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "memferry-pins-"));
  const make = (name: string): Promise<RelayCertificate> =>
    ensureCertificate({ directory: join(directory, name), hosts: ["127.0.0.1"] });
  [first, second] = [await make("first"), await make("second")];
  identity = new RelayIdentity(generateKeyPairSync("ed25519").privateKey);
  relay = await testListener({ certificate: second, requestListener });
  answer = (nonce) => identity.vouch(nonce, [noticeOf(second)]);
  questions = 0;
});
afterEach(async () => {
  await relay.close();
  await rm(directory, { recursive: true, force: true });
});

const options = () => ({
  url: relay.url,
  certificateHashes: [first.hash],
  relayIdentity: identity.publicKey,
});

const dials: [string, Dial][] = [
  ["dialWebSocket()", dialWebSocket],
  ["dialLink() auto", (dialing) => dialLink("auto", dialing)],
];
if (hasWebTransport) dials.push(["dialWebTransport()", dialWebTransport]);

describe.each(dials)("%s", (_name, dial) => {
  test("goes on with the certificates that the relay's identity vouches for", async () => {
    const link = await dial(options());
    const stream = await link.openStream();
    await stream.write(Uint8Array.of(1));
    await link.close("OK", "done");
    expect(questions).toBe(1);
    // What was learnt holds for the process.
    await (await dial(options())).close("OK", "done");
    expect(questions).toBe(1);
  });

  test("opens more streams of a link when the certificate is renewed meanwhile", async () => {
    const link = await dial(options());
    const third = await ensureCertificate({
      directory: join(directory, "third"),
      hosts: ["127.0.0.1"],
    });
    await relay.listener.renew(third);
    answer = (nonce) => identity.vouch(nonce, [noticeOf(third)]);
    const again = await dial(options());
    await (await again.openStream()).write(Uint8Array.of(1));
    expect(questions).toBe(2);
    await again.close("OK", "done");
    await link.close("OK", "done");
  });

  test("refuses another certificate without an identity", async () => {
    const { url, certificateHashes } = options();
    await expect(dial({ url, certificateHashes })).rejects.toMatchObject({
      code: "CERTIFICATE_MISMATCH",
    });
    expect(questions).toBe(0);
  });

  test("refuses whatever the identity did not sign, for this question and these certificates", async () => {
    const stranger = new RelayIdentity(generateKeyPairSync("ed25519").privateKey);
    const lies: Record<string, typeof answer> = {
      "another key": (nonce) => stranger.vouch(nonce, [noticeOf(second)]),
      "another key under the name of the identity": (nonce) => ({
        ...stranger.vouch(nonce, [noticeOf(second)]),
        identity: identity.publicKey,
      }),
      "an answer to another nonce": () =>
        identity.vouch(new Uint8Array(32).fill(9), [noticeOf(second)]),
      "another certificate than was signed": (nonce) => ({
        ...identity.vouch(nonce, [noticeOf(first)]),
        certificates: [noticeOf(second)],
      }),
      // True, and no help to who is in between: what is shown is still not in the list.
      "the true list, passed on": (nonce) => identity.vouch(nonce, [noticeOf(first)]),
      "no certificates": (nonce) => identity.vouch(nonce, []),
      "something else": () => "<html>login</html>",
      "too much": () => " ".repeat(1024 * 1024),
    };
    for (const [name, lie] of Object.entries(lies)) {
      answer = lie;
      await expect(dial(options()), name).rejects.toMatchObject({ code: "CERTIFICATE_MISMATCH" });
    }
    // Nothing of it stays.
    answer = (nonce) => identity.vouch(nonce, [noticeOf(second)]);
    await (await dial(options())).close("OK", "done");
  });
});

test("dialWebSocket() does not take a relay for an impostor that could not be asked", async () => {
  let connections = 0;
  const failing = dialWebSocket({
    ...options(),
    connectTcp: (address) => {
      // The first meets the new certificate; by the second the relay is down again.
      const port = ++connections === 1 ? address.port : 1;
      return connectTcp({ host: address.host, port });
    },
  });
  await expect(failing).rejects.toMatchObject({ code: "RELAY_UNREACHABLE" });
});

test("dialWebSocket() many times at once asks once", async () => {
  const links = await Promise.all(Array.from({ length: 8 }, () => dialWebSocket(options())));
  expect(questions).toBe(1);
  for (const link of links) await link.close("OK", "done");
});

test("relayIdentityOf() asks the relay whose certificate is known, and nobody else", async () => {
  const address = parseRelayUrl(relay.url);
  expect(await relayIdentityOf({ address, certificateHashes: [second.hash] })).toEqual(
    identity.publicKey,
  );
  await expect(relayIdentityOf({ address, certificateHashes: [first.hash] })).rejects.toMatchObject(
    { code: "CERTIFICATE_MISMATCH" },
  );
  expect(questions).toBe(1);
  answer = () => ({
    ...identity.vouch(fromBase64Url("AAAA"), [noticeOf(second)]),
  });
  await expect(
    relayIdentityOf({ address, certificateHashes: [second.hash] }),
  ).rejects.toMatchObject({ code: "CERTIFICATE_MISMATCH" });
});
