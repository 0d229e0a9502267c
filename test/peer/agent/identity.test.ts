import { randomBytes } from "node:crypto";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import { OpenError } from "@hpke/core";
import { expect, test } from "vitest";

import { AgentIdentity } from "../../../peer/agent/identity.ts";
import { sealToken } from "../../../relay/agents/seal.ts";
import {
  agentLoginMessage,
  sealedTokenInfo,
  type OrderPeer,
} from "../../../relay/protocol/agent.ts";
import { toBase64Url } from "../../../relay/protocol/bytes.ts";
import { verifies } from "../../../relay/switchboard/proof.ts";

const bytes = (count: number): Uint8Array => new Uint8Array(randomBytes(count));
const relay = { url: "https://relay.test:8443", certificateHashes: [], identity: bytes(32) };

function orderPeer(identity: AgentIdentity, keys: AgentIdentity = identity): OrderPeer {
  return {
    id: identity.id,
    sealingKey: toBase64Url(keys.sealingKey),
    sealingKeySignature: toBase64Url(keys.signedSealingKey()),
  };
}

test("AgentIdentity.sealSecret() gives what the leecher opens, and nobody else", async () => {
  const [seeder, leecher, other] = [1, 2, 3].map(() => AgentIdentity.generate(relay));
  if (!seeder || !leecher || !other) throw new Error("three are made");
  const [sessionId, secret] = [bytes(16), bytes(32)];
  const sealed = await seeder.sealSecret(sessionId, orderPeer(leecher), secret);
  expect(await leecher.openSecret(sessionId, orderPeer(seeder), sealed)).toEqual(secret);
  await expect(other.openSecret(sessionId, orderPeer(seeder), sealed)).rejects.toThrow("signed");
  await expect(leecher.openSecret(bytes(16), orderPeer(seeder), sealed)).rejects.toThrow("signed");
});

// A relay that is not honest has a key pair of its own, and may say whatever it likes of it.
test("a relay that exchanges keys is refused on both sides", async () => {
  const [seeder, leecher, mallory] = [1, 2, 3].map(() => AgentIdentity.generate(relay));
  if (!seeder || !leecher || !mallory) throw new Error("three are made");
  const [sessionId, secret] = [bytes(16), bytes(32)];
  await expect(
    seeder.sealSecret(sessionId, orderPeer(leecher, mallory), secret),
  ).rejects.toMatchObject({ code: "CHANNEL_REFUSED" });
  const forged = await mallory.sealSecret(sessionId, orderPeer(leecher), secret);
  await expect(leecher.openSecret(sessionId, orderPeer(seeder), forged)).rejects.toMatchObject({
    code: "CHANNEL_REFUSED",
  });
});

test("sealToken() is opened by the peer that it is for, in the role that it is for", async () => {
  const [peer, other] = [AgentIdentity.generate(relay), AgentIdentity.generate(relay)];
  const [sessionId, token] = [bytes(16), bytes(32)];
  const sealed = await sealToken(peer, { sessionId, role: "seeder", token });
  expect(await peer.open(sealed, sealedTokenInfo(sessionId, "seeder"))).toEqual(token);
  await expect(peer.open(sealed, sealedTokenInfo(sessionId, "leecher"))).rejects.toThrow(OpenError);
  await expect(other.open(sealed, sealedTokenInfo(sessionId, "seeder"))).rejects.toThrow(OpenError);
});

test("AgentIdentity.login() is good for one challenge of one relay", async () => {
  const identity = AgentIdentity.generate(relay);
  const [nonce, { publicKey: peerKey }] = [bytes(32), identity];
  const signature = identity.login(nonce);
  const good = (relayIdentity: Uint8Array, challenge: Uint8Array) =>
    verifies(peerKey, signature, agentLoginMessage({ relayIdentity, nonce: challenge, peerKey }));
  expect(await good(relay.identity, nonce)).toBe(true);
  expect(await good(bytes(32), nonce)).toBe(false);
  expect(await good(relay.identity, bytes(32))).toBe(false);
});

test("AgentIdentity.save() keeps the keys from others, and load() gives the same", async () => {
  const directory = await mkdtemp(path.join(tmpdir(), "memferry-agent-"));
  try {
    const identity = AgentIdentity.generate(relay);
    await identity.save(directory);
    expect((await stat(path.join(directory, "agent.json"))).mode & 0o777).toBe(0o600);
    const loaded = await AgentIdentity.load(directory);
    expect([loaded?.id, loaded?.sealingKey]).toEqual([identity.id, identity.sealingKey]);
  } finally {
    await rm(directory, { recursive: true });
  }
});
