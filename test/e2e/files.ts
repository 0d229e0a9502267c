/**
 * Files to migrate, and whether two are equal.
 *
 * @module
 */
import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";

const PIECE_BYTES = 4 * 1024 * 1024;

/** A file whose third quarter is a hole: random, random, zeros, random. */
export async function makeFile(path: string, bytes: number): Promise<void> {
  const file = await open(path, "w");
  try {
    await file.truncate(bytes);
    for (let at = 0; at < bytes; at += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, bytes - at);
      if (at >= bytes / 2 && at + length <= bytes * 0.75) continue;
      await file.write(randomBytes(length), 0, length, at);
    }
  } finally {
    await file.close();
  }
}

/** A file with nothing in it that could be left out. */
export async function makeRandomFile(path: string, bytes: number): Promise<void> {
  const file = await open(path, "w");
  try {
    for (let at = 0; at < bytes; at += PIECE_BYTES) {
      await file.write(randomBytes(Math.min(PIECE_BYTES, bytes - at)), 0, undefined, at);
    }
  } finally {
    await file.close();
  }
}

/** Hexadecimal SHA-256. */
export async function digest(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(path, { highWaterMark: PIECE_BYTES })) {
    // A stream without an encoding yields buffers.
    hash.update(piece as Buffer);
  }
  return hash.digest("hex");
}

export async function sameContent(a: string, b: string): Promise<boolean> {
  const [one, other] = await Promise.all([digest(a), digest(b)]);
  return one === other;
}
