/**
 * Which relay is meant, and with what key: from the command line, the environment, or the user's
 * configuration, in this order.
 *
 * @module
 */
import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { peerEnvironment, readUserConfig, type RelayEntry } from "../config.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import type { RelayAccess } from "../net/api-client.ts";
import { parseRelayUrl } from "../net/address.ts";
import { usage, type Arguments, type OptionSpec } from "./command-line.ts";

export const RELAY_OPTIONS = {
  relay: { value: "URL", help: "the relay, https://HOST:PORT (default: the configured one)" },
  "key-file": { value: "PATH", help: "file with the API key, - for standard input" },
} as const satisfies Readonly<Record<string, OptionSpec>>;

const SECRET_BYTES_MAX = 8 * 1024;

/** @throws MigrationError `USAGE` */
export async function relayAccess(args: Arguments): Promise<RelayAccess> {
  const environment = peerEnvironment();
  const config = await readUserConfig(environment.configFile);
  const url = normalised(args.text("relay")) ?? config.default;
  if (url === undefined) {
    throw usage(
      "no relay is known: start one with `memferry relay`, run `memferry login URL`, or give --relay URL",
    );
  }
  parseRelayUrl(url);
  const entry: RelayEntry | undefined = config.relays.find((relay) => relay.url === url);
  const keyFile = args.text("key-file");
  const key =
    keyFile === undefined
      ? (environment.key ?? entry?.key)
      : await readSecret(keyFile, "--key-file");
  if (key === undefined || key === "") {
    throw usage(
      `no API key for ${url}: set MEMFERRY_KEY, give --key-file, or run \`memferry login ${url}\``,
    );
  }
  const bytes = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, "hex"));
  const certificateHashes = (entry?.certificateHashes ?? []).map(bytes);
  const relayIdentity = entry?.identity === undefined ? undefined : bytes(entry.identity);
  return { url, certificateHashes, relayIdentity, key };
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

function normalised(url: string | undefined): string | undefined {
  return url?.replace(/\/+$/, "");
}
