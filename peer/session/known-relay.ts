/**
 * Which relay is meant, and with what key: what is given, the environment, or the user's configuration, in this order.
 *
 * @module
 */
import { peerEnvironment, readUserConfig, type RelayEntry } from "../config.ts";
import { MigrationError } from "../errors.ts";
import { parseRelayUrl } from "../net/address.ts";
import type { RelayAccess } from "../net/api-client.ts";

export interface RelayChoice {
  readonly url: string | undefined;
  /** Read only once the relay is known. */
  readonly key: (() => Promise<string>) | undefined;
  /** How to give either, for whoever gave neither: `--relay URL`, `--key-file`. */
  readonly words: { readonly relay: string; readonly key: string };
}

/** @throws MigrationError `USAGE` */
export async function knownRelay(choice: RelayChoice): Promise<RelayAccess> {
  const environment = peerEnvironment();
  const config = await readUserConfig(environment.configFile);
  const url = choice.url?.replace(/\/+$/, "") ?? config.default;
  if (url === undefined) {
    throw new MigrationError(
      "USAGE",
      `no relay is known: start one with \`memferry relay\`, run \`memferry login URL\`, or give ${choice.words.relay}`,
    );
  }
  parseRelayUrl(url);
  const entry: RelayEntry | undefined = config.relays.find((relay) => relay.url === url);
  const key = choice.key === undefined ? (environment.key ?? entry?.key) : await choice.key();
  if (key === undefined || key === "") {
    throw new MigrationError(
      "USAGE",
      `no API key for ${url}: set MEMFERRY_KEY, give ${choice.words.key}, or run \`memferry login ${url}\``,
    );
  }
  const bytes = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, "hex"));
  const certificateHashes = (entry?.certificateHashes ?? []).map(bytes);
  const relayIdentity = entry?.identity === undefined ? undefined : bytes(entry.identity);
  return { url, certificateHashes, relayIdentity, key };
}
