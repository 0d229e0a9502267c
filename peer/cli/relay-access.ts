/**
 * Which relay is meant, and with what key, as the command line says it.
 *
 * @module
 */
import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { messageOf } from "../../relay/protocol/errors.ts";
import type { RelayAccess } from "../net/api-client.ts";
import { knownRelay } from "../session/known-relay.ts";
import { usage, type Arguments, type OptionSpec } from "./command-line.ts";

export const RELAY_OPTIONS = {
  relay: { value: "URL", help: "the relay, https://HOST:PORT (default: the configured one)" },
  "key-file": { value: "PATH", help: "file with the API key, - for standard input" },
} as const satisfies Readonly<Record<string, OptionSpec>>;

const SECRET_BYTES_MAX = 8 * 1024;

/** @throws MigrationError `USAGE` */
export async function relayAccess(args: Arguments): Promise<RelayAccess> {
  const keyFile = args.text("key-file");
  return await knownRelay({
    url: args.text("relay"),
    key: keyFile === undefined ? undefined : () => readSecret(keyFile, "--key-file"),
    words: { relay: "--relay URL", key: "--key-file" },
  });
}

/** A secret from a file, or from standard input for `-`, without the line's end. */
export async function readSecret(path: string, option: string): Promise<string> {
  let secret;
  try {
    secret = path === "-" ? await text(process.stdin) : await readFile(path, "utf8");
  } catch (cause) {
    throw usage(`${option} ${path}: ${messageOf(cause)}`);
  }
  if (secret.length > SECRET_BYTES_MAX) throw usage(`${option} ${path} is too long to be a secret`);
  return secret.trim();
}
