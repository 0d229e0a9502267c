/**
 * What the relay must be able to read and its database must not show: sealed under a key that is not in it.
 *
 * AES-256-GCM: `nonce (12) ‖ ciphertext ‖ tag (16)`. What a sealed value is for is authenticated with it, so that
 * one cannot be put in another's place.
 *
 * @module
 */
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { RelayError, systemCode } from "./errors.ts";
import { messageOf } from "./protocol/errors.ts";
import { writeWhole } from "./runtime/user-config.ts";

const KEY_FILE = "relay-secret-key";
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

export interface SecretBox {
  /** @param use What it is and whose, such as `webhook ID`. */
  seal(use: string, secret: Uint8Array): Uint8Array;
  /** @returns Undefined if it was sealed under another key, for another use, or was changed. */
  open(use: string, sealed: Uint8Array): Uint8Array | undefined;
}

/** @param key 32 bytes. */
export function createSecretBox(key: Uint8Array): SecretBox {
  const sealingKey = new Uint8Array(
    hkdfSync("sha256", key, new Uint8Array(), "memferry sealed 1", KEY_BYTES),
  );
  return {
    seal(use, secret) {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv("aes-256-gcm", sealingKey, nonce);
      cipher.setAAD(new TextEncoder().encode(use));
      return new Uint8Array(
        Buffer.concat([nonce, cipher.update(secret), cipher.final(), cipher.getAuthTag()]),
      );
    },
    open(use, sealed) {
      if (sealed.length < NONCE_BYTES + TAG_BYTES) return undefined;
      const end = sealed.length - TAG_BYTES;
      const decipher = createDecipheriv("aes-256-gcm", sealingKey, sealed.subarray(0, NONCE_BYTES));
      decipher.setAAD(new TextEncoder().encode(use));
      decipher.setAuthTag(sealed.subarray(end));
      const opened = decipher.update(sealed.subarray(NONCE_BYTES, end));
      try {
        return new Uint8Array(Buffer.concat([opened, decipher.final()]));
      } catch {
        // The tag is not this key's and use's.
        return undefined;
      }
    },
  };
}

/**
 * The operator's key if there is one, else the one in the data directory, made at the first start.
 *
 * @throws RelayError `CONFIG_INVALID` if the operator's file cannot be read or holds no key: the relay does not go on
 *   with another; `DATA_DIRECTORY_UNUSABLE` for its own.
 */
export async function loadSecretKey(
  dataDir: string,
  operatorsFile: string | undefined,
): Promise<Uint8Array> {
  const file = operatorsFile ?? join(dataDir, KEY_FILE);
  try {
    const text = (await readFile(file, "utf8")).trim();
    const key = new Uint8Array(Buffer.from(text, "base64"));
    if (!/^[A-Za-z0-9+/]{43}=$/.test(text) || key.length !== KEY_BYTES) {
      throw new Error(`${KEY_BYTES} bytes in base64 are due`);
    }
    return key;
  } catch (cause) {
    if (operatorsFile === undefined && systemCode(cause) === "ENOENT") {
      const key = randomBytes(KEY_BYTES);
      await writeWhole(file, `${key.toString("base64")}\n`);
      return new Uint8Array(key);
    }
    const why = systemCode(cause) ?? messageOf(cause);
    throw operatorsFile === undefined
      ? new RelayError(
          "DATA_DIRECTORY_UNUSABLE",
          `${file} cannot be used (${why}): restore it, or delete it and rotate the secret of every webhook`,
          { cause },
        )
      : new RelayError(
          "CONFIG_INVALID",
          `--secret-key-file: ${file} cannot be used (${why}): make one with \`openssl rand -base64 32\``,
          { cause },
        );
  }
}
