import fc from "fast-check";
import { expect, test } from "vitest";

import type { Candidate } from "../../../../peer/net/paths/candidate.ts";
import { attemptKeys, SignalSealer, type Signal } from "../../../../peer/net/paths/signal.ts";
import { SIGNAL_BYTES_MAX } from "../../../../relay/protocol/limits.ts";

const secrets = { sessionId: new Uint8Array(16).fill(1), secret: new Uint8Array(32).fill(2) };
const leecher = new SignalSealer("leecher", secrets);
const seeder = new SignalSealer("seeder", secrets);

const bytes16 = fc.uint8Array({ minLength: 16, maxLength: 16 });
const candidate: fc.Arbitrary<Candidate> = fc.record({
  kind: fc.constantFrom("host" as const, "reflexive" as const, "configured" as const),
  address: fc.oneof(fc.ipV4(), fc.constantFrom("2001:db8::1", "fd00::2", "2001:db8:0:1::")),
  port: fc.integer({ min: 1, max: 65_535 }),
});
const candidates = fc.array(candidate, { maxLength: 8 });
const reason = fc.string({ maxLength: 40 });
const signal: fc.Arbitrary<Signal> = fc.oneof(
  fc.record({
    kind: fc.constant("offer" as const),
    attempt: bytes16,
    startedAtMs: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
    candidates,
  }),
  fc.record({ kind: fc.constant("answer" as const), attempt: bytes16, nonce: bytes16, candidates }),
  fc.record({ kind: fc.constant("refuse" as const), attempt: bytes16, reason }),
  fc.record({ kind: fc.constant("fallback" as const), attempt: bytes16, reason }),
);

test("what one side seals the other opens, and it fits a signal of the relay", () => {
  fc.assert(
    fc.property(signal, (one) => {
      const sealed = leecher.seal(one);
      expect(sealed.length).toBeLessThanOrEqual(SIGNAL_BYTES_MAX);
      expect(seeder.open(sealed)).toEqual(one);
    }),
  );
});

test("a changed byte, a cut end, another session's and one's own signal open as nothing", () => {
  const other = new SignalSealer("seeder", { ...secrets, secret: new Uint8Array(32).fill(3) });
  fc.assert(
    fc.property(signal, fc.nat(), fc.integer({ min: 1, max: 255 }), (one, at, flip) => {
      const sealed = leecher.seal(one);
      const changed = sealed.slice();
      const index = at % changed.length;
      changed[index] = (changed[index] ?? 0) ^ flip;
      expect(seeder.open(changed)).toBeUndefined();
      expect(seeder.open(sealed.subarray(0, at % sealed.length))).toBeUndefined();
      expect(leecher.open(sealed)).toBeUndefined();
      expect(other.open(sealed)).toBeUndefined();
    }),
  );
});

test("nobody learns anything of the addresses from a sealed signal", () => {
  const address = "203.0.113.77";
  const sealed = leecher.seal({
    kind: "offer",
    attempt: new Uint8Array(16),
    startedAtMs: 1,
    candidates: [{ kind: "host", address, port: 4_000 }],
  });
  expect(Buffer.from(sealed).includes(Buffer.from([203, 0, 113, 77]))).toBe(false);
});

test("more than eight candidates are not sent, and none that is no address", () => {
  const one: Candidate = { kind: "host", address: "192.0.2.1", port: 1 };
  const none: Candidate = { kind: "host", address: "nowhere", port: 1 };
  const opened = seeder.open(
    leecher.seal({
      kind: "offer",
      attempt: new Uint8Array(16),
      startedAtMs: 1,
      candidates: [none, ...Array.from({ length: 20 }, () => one)],
    }),
  );
  expect(opened?.kind === "offer" ? opened.candidates : []).toEqual(
    Array.from({ length: 8 }, () => one),
  );
});

test("each attempt has keys of its own, each way another", () => {
  const nonce = new Uint8Array(16).fill(9);
  const keys = attemptKeys(secrets, new Uint8Array(16).fill(1), nonce);
  expect(attemptKeys(secrets, new Uint8Array(16).fill(1), nonce)).toEqual(keys);
  const others = [
    attemptKeys(secrets, new Uint8Array(16).fill(2), nonce),
    attemptKeys(secrets, new Uint8Array(16).fill(1), new Uint8Array(16)),
  ];
  const all = [keys, ...others].flatMap((one) => [
    one.probe,
    one.leecherToSeeder,
    one.seederToLeecher,
  ]);
  expect(new Set(all.map((key) => Buffer.from(key).toString("hex"))).size).toBe(9);
});
