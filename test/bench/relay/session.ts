/** Sessions that a server and its load know of without telling each other. */
import { createHash } from "node:crypto";

import type { TestSession } from "../../relay/switchboard/harness.ts";

export function benchSession(number: number): TestSession {
  const of = (what: string): Uint8Array =>
    new Uint8Array(createHash("sha256").update(`${what} ${number}`).digest());
  return {
    sessionId: of("session").subarray(0, 16),
    tokens: { seeder: of("seeder"), leecher: of("leecher") },
  };
}
