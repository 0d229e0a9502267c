import { expect, test } from "vitest";

import { STREAM_BUFFER_BYTES_MAX } from "../../../relay/protocol/limits.ts";
import { NodeBuffers, STREAM_BUFFER_BYTES_MIN } from "../../../relay/switchboard/buffers.ts";

const MIB = 1024 * 1024;
const limits = { sessionBufferBytes: 32 * MIB, nodeBufferBytes: 256 * MIB };

test("a session's streams hold together what a session may", () => {
  const session = new NodeBuffers(limits).session("p");
  expect(session.bytes).toBe(STREAM_BUFFER_BYTES_MAX);
  for (let pairs = 1; pairs <= 66; pairs++) {
    session.count(1);
    expect(session.bytes * 4 * pairs).toBeLessThanOrEqual(32 * MIB);
  }
  for (let pairs = 0; pairs < 58; pairs++) session.count(-1);
  expect(session.bytes).toBe(STREAM_BUFFER_BYTES_MAX);
});

test("a project with many streams makes its own buffers smaller, not those of others", () => {
  const node = new NodeBuffers(limits);
  const other = node.session("good");
  other.count(1);
  const abusers = Array.from({ length: 40 }, () => node.session("abuser"));
  for (const session of abusers) for (let i = 0; i < 8; i++) session.count(1);
  expect(other.bytes).toBe(STREAM_BUFFER_BYTES_MAX);
  const held = abusers.reduce((sum, session) => sum + session.bytes * 4 * 8, 0);
  expect(held).toBeLessThanOrEqual(128 * MIB);
  expect(node.pairs).toBe(321);
  // So many that the least for each is more than there is: the bound of connections is theirs.
  for (const session of abusers) for (let i = 0; i < 58; i++) session.count(1);
  expect(abusers[0]?.bytes).toBe(STREAM_BUFFER_BYTES_MIN);
});
