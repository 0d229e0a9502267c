/**
 * What the two peers tell each other to find a direct path: by way of a relay that may send anything, and in datagrams
 * of whoever likes to.
 *
 * @module
 */
import { createCipheriv, createDecipheriv, createHmac, hkdfSync } from "node:crypto";

import { openProbe, sealProbe } from "../../peer/net/paths/punch.ts";
import { SignalSealer, type Signal } from "../../peer/net/paths/signal.ts";
import { CANDIDATES_MAX } from "../../peer/net/paths/limits.ts";
import { count } from "../fixtures/example.ts";
import { joined, mutate } from "./mutate.ts";
import { requireSame, requireThat, type Target } from "./targets.ts";

const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const MAC_BYTES = 16;

const secrets = { sessionId: count(16, 1), secret: count(32, 2) };
const leecher = new SignalSealer("leecher", secrets);
const seeder = new SignalSealer("seeder", secrets);
const key = new Uint8Array(
  hkdfSync("sha256", secrets.secret, secrets.sessionId, "memferry signal 1 leecher", 32),
);

/** As the leecher seals. */
function seal(plain: Uint8Array, nonce: Uint8Array): Uint8Array {
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  return joined(nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag());
}

function plainOf(signal: Signal): Uint8Array {
  const sealed = leecher.seal(signal);
  const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, NONCE_BYTES));
  return new Uint8Array(decipher.update(sealed.subarray(NONCE_BYTES, -TAG_BYTES)));
}

const attempt = count(16, 3);
const candidates = [
  { kind: "host", address: "192.0.2.1", port: 4_000 },
  { kind: "host", address: "2001:db8::1", port: 65_535 },
  { kind: "reflexive", address: "203.0.113.9", port: 1 },
  { kind: "configured", address: "::ffff:203.0.113.9", port: 2 },
] as const;
const plains = (
  [
    { kind: "offer", attempt, startedAtMs: 1_700_000_000_000, candidates },
    { kind: "offer", attempt, startedAtMs: Number.MAX_SAFE_INTEGER, candidates: [] },
    { kind: "answer", attempt, nonce: count(16, 4), candidates },
    { kind: "refuse", attempt, reason: "told to use the relay only" },
    { kind: "fallback", attempt, reason: "é".repeat(50) },
  ] as const
).map(plainOf);

/** Half of them are sealed after they were damaged: the other peer may be of another make. */
export const signalTarget: Target = {
  name: "SignalSealer",
  weight: 12_000,
  make(random) {
    const [one, other, nonce] = [random.of(plains), random.of(plains), random.bytes(NONCE_BYTES)];
    if (random.below(2) === 0) return seal(mutate(one, random, other), nonce);
    return mutate(seal(one, nonce), random, other);
  },
  check(input) {
    const signal = seeder.open(input);
    requireThat(leecher.open(input) === undefined, "a signal opens at the side that sealed it");
    if (signal === undefined) return "dropped";
    const again = seeder.open(leecher.seal(signal));
    if (signal.kind === "offer" || signal.kind === "answer") {
      requireThat(signal.candidates.length <= CANDIDATES_MAX, "too many candidates");
      requireThat(JSON.stringify(again) === JSON.stringify(signal), "it is another one then");
    } else {
      const reason = again?.kind === signal.kind ? again.reason : undefined;
      requireThat(reason !== undefined && signal.reason.startsWith(reason), "another reason");
    }
    return signal.kind;
  },
};

const probeKey = count(32, 5);
const probeMac = (body: Uint8Array): Uint8Array =>
  createHmac("sha256", probeKey).update(body).digest().subarray(0, MAC_BYTES);
const probes = (["probe", "answer", "nominate", "nominated"] as const).flatMap((kind) =>
  (["seeder", "leecher"] as const).map((from) =>
    sealProbe({ kind, from, id: count(8, 6) }, probeKey),
  ),
);

/** Half of them have a good code after they were damaged. */
export const probeTarget: Target = {
  name: "openProbe",
  weight: 12_000,
  make(random) {
    const damaged = mutate(random.of(probes), random, random.of(probes));
    if (random.below(2) === 0 || damaged.length < MAC_BYTES) return damaged;
    return joined(damaged.slice(0, -MAC_BYTES), probeMac(damaged.slice(0, -MAC_BYTES)));
  },
  check(input) {
    const probe = openProbe(input, probeKey);
    if (probe === undefined) return "dropped";
    requireSame(sealProbe(probe, probeKey), input);
    return probe.kind;
  },
};
