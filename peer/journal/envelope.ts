/**
 * A file of ours that is whole or refused: what it is, whose it is, and a digest over all of it.
 *
 * ```
 * "memferry KIND 1\n", 16 bytes session id, u32 body length, 32 bytes SHA-256 over all other bytes, body (JSON)
 * ```
 *
 * @module
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { open, readFile, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { ByteReader, ByteWriter, toHex } from "../../relay/protocol/bytes.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { SESSION_ID_BYTES } from "../../relay/protocol/ids.ts";
import { MigrationError } from "../errors.ts";

const DIGEST_BYTES = 32;
/** The largest body: a setup with 64 regions and long paths stays far below. */
const BODY_BYTES_MAX = 1024 * 1024;

export type EnvelopeKind = "setup" | "journal";

export function seal(kind: EnvelopeKind, sessionId: Uint8Array, body: unknown): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify(body));
  return new ByteWriter(text.length + 128)
    .bytes(headOf(kind, sessionId, text.length))
    .bytes(digest(headOf(kind, sessionId, text.length), text))
    .bytes(text)
    .finish();
}

/**
 * @param file Named in the error.
 * @returns The body, parsed and not looked at.
 * @throws MigrationError `JOURNAL_INVALID`
 */
export function unseal(
  kind: EnvelopeKind,
  sessionId: Uint8Array,
  bytes: Uint8Array,
  file: string,
): unknown {
  const magic = magicOf(kind);
  const wrong = (what: string): MigrationError =>
    new MigrationError(
      "JOURNAL_INVALID",
      `${file} ${what}: nothing is done on its word; bring it back from a backup, or type \`memferry recover\``,
    );
  if (Buffer.compare(bytes.subarray(0, magic.length), magic) !== 0) {
    throw wrong(`is no ${kind} of this version of memferry`);
  }
  let parts;
  try {
    const reader = new ByteReader(bytes.subarray(magic.length));
    const session = reader.bytes(SESSION_ID_BYTES);
    const length = reader.u32();
    if (length > BODY_BYTES_MAX) throw new Error("too long");
    const given = reader.bytes(DIGEST_BYTES);
    const body = reader.bytes(length);
    reader.end();
    parts = { session, given, body };
  } catch {
    throw wrong("is cut short or has something after its end");
  }
  const { session, given, body } = parts;
  if (!timingSafeEqual(given, digest(headOf(kind, session, body.length), body))) {
    throw wrong("is damaged (its digest does not fit)");
  }
  if (Buffer.compare(session, sessionId) !== 0) {
    throw wrong(`is of another session (${toHex(session)})`);
  }
  return JSON.parse(Buffer.from(body).toString("utf8"));
}

/** Replaces a file whole: after a crash the old one or the new one is there. Durable when it resolves. */
export async function replaceFile(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${path}.new`;
  await rm(temporary, { force: true });
  const handle = await open(temporary, "wx", 0o600);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
  await syncDirectory(dirname(path));
}

/** Makes names in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** @throws MigrationError `JOURNAL_INVALID` */
export async function readSealed(
  kind: EnvelopeKind,
  sessionId: Uint8Array,
  path: string,
): Promise<unknown> {
  let bytes;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    throw new MigrationError(
      "JOURNAL_INVALID",
      `${path} cannot be read (${messageOf(cause)}): without it this session cannot go on here`,
      { cause },
    );
  }
  return unseal(kind, sessionId, bytes, path);
}

function magicOf(kind: EnvelopeKind): Uint8Array {
  return new TextEncoder().encode(`memferry ${kind} 1\n`);
}

function headOf(kind: EnvelopeKind, sessionId: Uint8Array, length: number): Uint8Array {
  return new ByteWriter(64).bytes(magicOf(kind)).bytes(sessionId).u32(length).finish();
}

function digest(head: Uint8Array, body: Uint8Array): Uint8Array {
  return createHash("sha256").update(head).update(body).digest();
}
