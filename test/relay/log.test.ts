import { expect, test } from "vitest";

import { createLog, redact } from "../../relay/log.ts";

const secret = "d_lZO9MrKpJZPY5IsZvaNaV59lhX0bWkZ98uMHDGeSo";

function lines(format: "json" | "text", level: "debug" | "info" = "info") {
  const written: string[] = [];
  const log = createLog({ level, format, write: (line) => written.push(line), clock: () => 0 });
  return { log, written };
}

test("createLog() writes one line of JSON an event, and none below its level", () => {
  const { log, written } = lines("json");
  log("debug", "unseen");
  log("info", "peer\njoined", {
    role: "seeder",
    count: 2,
    none: undefined,
    error: new TypeError("x"),
  });
  expect(written).toHaveLength(1);
  expect(JSON.parse(written[0] ?? "")).toEqual({
    at: "1970-01-01T00:00:00.000Z",
    level: "info",
    message: "peer\njoined",
    role: "seeder",
    count: 2,
    error: "TypeError: x",
  });
  expect(written[0]).not.toContain("\n");
});

test("createLog() as text lets nobody begin a line or send a terminal its commands", () => {
  const { log, written } = lines("text");
  log("warn", "name is \u001b[2J\nfake", { name: "a\r\nb \u009b1m", plain: "x.y:1" });
  expect(written).toEqual([
    '1970-01-01T00:00:00.000Z warn  name is  [2J fake name="a b  1m" plain=x.y:1',
  ]);
});

test("createLog() cuts out whatever looks like a secret, in messages and fields", () => {
  for (const format of ["json", "text"] as const) {
    const { log, written } = lines(format, "debug");
    log("info", `key mfk_f1763c27c187_${secret} given`, {
      reason: `Authorization: Bearer ${secret.slice(0, 20)}`,
      url: "postgres://memferry:hunter2@db/x",
      ticketText: "short",
      token: "abc",
      note: `memferry1_${secret}${secret}`,
      raw: secret,
      deep: { authorization: `Bearer ${secret}` },
    });
    const [line = ""] = written;
    expect(line).not.toContain(secret.slice(0, 20));
    for (const hidden of ["hunter2", "short", "abc"]) expect(line).not.toContain(hidden);
    expect(line).toContain("[redacted]");
  }
});

test("redact() leaves ids and hashes, which people need", () => {
  const plain = `session ${"0a".repeat(16)} certificate ${"0a".repeat(32)} 6eb17bcc-0f43-45f1-9d09-4429a1b43f84`;
  expect(redact(plain)).toBe(plain);
});
