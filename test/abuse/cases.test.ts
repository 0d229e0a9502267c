/**
 * What a relay must survive, by its number: each case has tests of that number in this folder, or a reason why it has
 * its test elsewhere, or none.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";

import { expect, test } from "vitest";

const CASES = 40;
const root = new URL("../../", import.meta.url);

/** @property where A file whose tests are about the case; `none` where there is nothing to test. */
const ELSEWHERE: Readonly<Record<number, { readonly why: string; readonly where: string }>> = {
  11: {
    why: "No part of a join asks another service: there is no hook or backend for it. A database that does not answer fails closed (32). Webhooks go out beside what they tell of, bounded.",
    where: "test/relay/webhooks/deliverer.test.ts",
  },
  14: {
    why: "No time of a peer's is read: no frame has one. Tickets and keys end by the clock of the database.",
    where: "test/compliance/database.ts",
  },
  15: {
    why: "There are no JSON Web Tokens: a key is 256 random bits, kept as its hash.",
    where: "none",
  },
  20: {
    why: "Whole migrations on a simulated network, with relays that are killed at any instant and invariants about the one owner.",
    where: "test/sim/nemesis.ts",
  },
  33: {
    why: "There is no bus between relays. The owner is a compare-and-set in the database, which two relays ask as one does.",
    where: "test/relay/db/frozen.test.ts",
  },
  34: {
    why: "There are no leases. What lasts for a time lasts by the clock of the database.",
    where: "none",
  },
  35: {
    why: "Bytes of older versions are recorded, and peers and relays of other versions are played.",
    where: "test/relay/protocol/fixtures.test.ts",
  },
  40: {
    why: "Real peers against a relay that swaps keys, replays, reorders and cuts off.",
    where: "test/e2e/hostile.test.ts",
  },
};

function numbersHere(): Set<number> {
  const here = new URL("./", import.meta.url);
  return new Set(
    readdirSync(here)
      .filter((file) => file.endsWith(".test.ts"))
      .flatMap((file) => [
        ...readFileSync(new URL(file, here), "utf8").matchAll(/\btest\(\s*"\((\d+)\) /g),
      ])
      .map(([, number]) => Number(number)),
  );
}

test("every case has a test of its number here, or a reason and a place", () => {
  const here = numbersHere();
  for (let number = 1; number <= CASES; number++) {
    const elsewhere = ELSEWHERE[number];
    expect([number, here.has(number), elsewhere !== undefined]).toEqual([
      number,
      elsewhere === undefined,
      elsewhere !== undefined,
    ]);
    if (elsewhere === undefined || elsewhere.where === "none") continue;
    expect([number, existsSync(new URL(elsewhere.where, root))]).toEqual([number, true]);
  }
});
