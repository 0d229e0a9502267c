import { readFileSync } from "node:fs";

import { expect, test } from "vitest";

import {
  LIMIT_NAMES,
  readLimit,
  RELAY_LIMITS,
  relayLimits,
  type LimitSpec,
} from "../../relay/limits.ts";

const page = readFileSync(new URL("../../docs/limits.md", import.meta.url), "utf8");

function row(name: string, { scope, unit, set, default: value, protects }: LimitSpec): string[] {
  const shown = value === 0 ? "none" : value.toLocaleString("en-US");
  return [`\`${name}\``, scope, shown, unit, set, protects];
}

test("docs/limits.md has the same table as relay/limits.ts", () => {
  const section = /^## The relay, by name$(.*?)^## /ms.exec(page)?.[1] ?? "";
  const rows = [...section.matchAll(/^\| (`\w+`.*) \|$/gm)].map(([, cells = ""]) =>
    cells.split("|").map((cell) => cell.trim()),
  );
  expect(rows).toEqual(LIMIT_NAMES.map((name) => row(name, RELAY_LIMITS[name])));
});

test("every default is one that may be set", () => {
  for (const name of LIMIT_NAMES) {
    const { default: value, least, most } = RELAY_LIMITS[name];
    expect([name, value >= least && value <= most]).toEqual([name, true]);
  }
});

test("readLimit() takes a number within its range, and says what else is wrong", () => {
  expect(readLimit("handshakeMs", "5000")).toEqual({ name: "handshakeMs", value: 5_000 });
  expect(readLimit("failedLoginsPerPrefix", 0.5)).toMatchObject({ value: 0.5 });
  expect(readLimit("relayedBytesPerS", "0")).toMatchObject({ value: 0 });
  for (const value of ["", " ", "x", "-1", "NaN", "Infinity", "1e99", undefined, null, {}, true]) {
    expect(readLimit("connections", value)).toContain("connections");
  }
  expect(readLimit("connections", "0")).toContain("from 1");
  expect(readLimit("nonsense", "1")).toContain("is no limit");
  expect(readLimit("__proto__", "1")).toContain("is no limit");
  for (const fixed of ["bodyBytes", "sessionBytesPerS"]) {
    expect(readLimit(fixed, "1")).toContain("not set here");
  }
});

test("relayLimits() puts what was configured over the defaults", () => {
  const limits = relayLimits({ connections: 7 });
  expect(limits.connections).toBe(7);
  expect(limits.handshakes).toBe(RELAY_LIMITS.handshakes.default);
  expect(Object.keys(limits).toSorted()).toEqual([...LIMIT_NAMES].toSorted());
});
