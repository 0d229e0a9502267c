import { isIP } from "node:net";

import fc from "fast-check";
import { expect, test } from "vitest";

import { formatIpAddress, parseIpAddress } from "../../../relay/protocol/ip-address.ts";

const bytes = (count: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: count, maxLength: count });
/** Zeros are where the forms differ. */
const sparse = fc
  .array(fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff })), {
    minLength: 8,
    maxLength: 8,
  })
  .map((words) => Uint8Array.from(words.flatMap((word) => [word >> 8, word & 0xff])));

test("parseIpAddress() gives back what formatIpAddress() wrote, in the shortest form", () => {
  fc.assert(
    fc.property(fc.oneof(bytes(4), bytes(16), sparse), (given) => {
      const text = formatIpAddress(given);
      const parsed = parseIpAddress(text) ?? new Uint8Array();
      expect(formatIpAddress(parsed)).toBe(text);
      if (parsed.length === given.length) expect(parsed).toEqual(given);
      if (given.length === 16 && parsed.length === 16) {
        expect(new URL(`http://[${text}]/`).hostname).toBe(`[${text}]`);
      }
    }),
    { numRuns: 1000 },
  );
});

test("parseIpAddress() takes exactly what Node takes as an address", () => {
  const piece = fc.constantFrom(
    "::",
    ":",
    ".",
    "0",
    "1",
    "ffff",
    "abcd",
    "127",
    "255",
    "256",
    "01",
    "0x7f",
    "%1",
    " ",
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.array(piece, { maxLength: 16 }).map((parts) => parts.join("")),
        fc.ipV4(),
        fc.ipV6(),
        fc.ipV4Extended(),
      ),
      (text) => {
        const node = text.includes("%") ? 0 : isIP(text);
        expect(parseIpAddress(text)?.length).toBe(node === 0 ? undefined : node === 4 ? 4 : 16);
      },
    ),
    { numRuns: 3000 },
  );
});

test.each([
  ["::", "::"],
  ["0:0:0:0:0:0:0:1", "::1"],
  ["2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
  ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
  ["::ffff:203.0.113.7", "203.0.113.7"],
  ["0:0:0:0:0:FFFF:cb00:7107", "203.0.113.7"],
  ["64:ff9b::1.2.3.4", "64:ff9b::102:304"],
])("formatIpAddress() writes %s as %s", (given, written) => {
  expect(formatIpAddress(parseIpAddress(given) ?? new Uint8Array())).toBe(written);
});
