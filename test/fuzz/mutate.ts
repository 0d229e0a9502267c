/**
 * What may become of bytes on their way: by accident, and by malice.
 *
 * @module
 */
import type { CaseRandom } from "./random.ts";

/** Where a length, a count or an index is most likely to be taken wrongly. */
const EXTREMES = [
  0, 1, 2, 7, 8, 0x7f, 0x80, 0xff, 0x100, 0x3ff, 0x400, 0x401, 0xfff, 0x1000, 0x1001, 0x7fff,
  0x8000, 0xffff, 0x1_0000, 0x0fff_ffff, 0x1000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_fffd,
  0xffff_fffe, 0xffff_ffff,
] as const;
const EXTREME_F64 = [
  0,
  -0,
  -1,
  0.5,
  Number.NaN,
  Infinity,
  -Infinity,
  Number.MAX_SAFE_INTEGER,
  2 ** 53,
  1e308,
  5e-324,
] as const;

type Mutation = (bytes: Uint8Array, random: CaseRandom, other: Uint8Array) => Uint8Array;

const MUTATIONS: readonly Mutation[] = [
  function flipBits(bytes, random) {
    const changed = bytes.slice();
    for (let i = random.below(8); i >= 0 && changed.length > 0; i--) {
      const at = random.below(changed.length);
      changed[at] = (changed[at] ?? 0) ^ (1 << random.below(8));
    }
    return changed;
  },
  function truncate(bytes, random) {
    return bytes.slice(0, random.below(bytes.length + 1));
  },
  function extend(bytes, random) {
    return joined(bytes, random.bytes(1 + random.below(40)));
  },
  function extremeInteger(bytes, random) {
    const changed = bytes.slice();
    const width = random.of([1, 2, 4, 8]);
    if (changed.length < width) return changed;
    const view = new DataView(changed.buffer);
    const at = random.below(changed.length - width + 1);
    const value = random.of(EXTREMES);
    if (width === 1) view.setUint8(at, value & 0xff);
    else if (width === 2) view.setUint16(at, value & 0xffff, true);
    else if (width === 4) view.setUint32(at, value, true);
    else view.setBigUint64(at, BigInt(value) << BigInt(random.below(33)), true);
    return changed;
  },
  function extremeNumber(bytes, random) {
    const changed = bytes.slice();
    if (changed.length < 8) return changed;
    const at = random.below(changed.length - 7);
    new DataView(changed.buffer).setFloat64(at, random.of(EXTREME_F64), true);
    return changed;
  },
  function splice(bytes, random, other) {
    const head = bytes.subarray(0, random.below(bytes.length + 1));
    return joined(head, other.subarray(random.below(other.length + 1)));
  },
  function noise(_, random) {
    return random.bytes(random.below(128));
  },
  function repeat(bytes, random) {
    const from = random.below(bytes.length + 1);
    const to = from + random.below(Math.min(64, bytes.length - from) + 1);
    return joined(bytes.subarray(0, to), bytes.subarray(from));
  },
  function leaveOut(bytes, random) {
    const from = random.below(bytes.length + 1);
    return joined(bytes.subarray(0, from), bytes.subarray(from + 1 + random.below(16)));
  },
  function keep(bytes) {
    return bytes.slice();
  },
];

/** One mutation, now and then several. @param other Bytes of another message, to splice with. */
export function mutate(bytes: Uint8Array, random: CaseRandom, other: Uint8Array): Uint8Array {
  let changed = bytes;
  const times = random.below(4) === 0 ? 2 + random.below(3) : 1;
  for (let i = 0; i < times; i++) changed = random.of(MUTATIONS)(changed, random, other);
  return changed;
}

/** Cuts bytes into pieces, as a transport may deliver them. */
export function pieces(bytes: Uint8Array, random: CaseRandom): Uint8Array[] {
  const cut: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = 1 + random.below(random.below(4) === 0 ? 4 : 200);
    cut.push(bytes.slice(at, at + length));
    at += length;
  }
  return cut;
}

export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
