/**
 * `memferry login`: makes a relay known to this user.
 *
 * @module
 */
import { fromBase64Url, toHex } from "../../relay/protocol/bytes.ts";
import { peerEnvironment, saveRelay } from "../config.ts";
import { connectionError, parseRelayUrl } from "../net/address.ts";
import { ApiClient } from "../net/api-client.ts";
import { LinkError } from "../net/errors.ts";
import { relayIdentityOf } from "../net/relay-pins.ts";
import { routedTcp } from "../net/proxy.ts";
import { connectPinned, destroyLater, presentedCertificateHash } from "../net/tls.ts";
import { usage, type Arguments, type CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import type { Output } from "./output.ts";
import { readSecret } from "./relay-access.ts";

export const loginSpec: CommandSpec = {
  name: "login",
  usage: "URL [options]",
  summary: "Stores a relay's address, certificate hash and API key for this user, as the default.",
  positionalsMax: 1,
  options: {
    "key-file": {
      value: "PATH",
      help: "file with the API key (default: MEMFERRY_KEY, else standard input)",
    },
    "certificate-hash": {
      value: "SHA256",
      help: "hexadecimal hash of the relay's own certificate, which it prints at its start",
    },
  },
  examples: [
    [
      "memferry login https://relay.example:8443 --key-file key",
      "a relay with a public certificate",
    ],
    [
      "memferry login https://10.0.0.5:8443 --certificate-hash 3f9a... < key",
      "a relay with a certificate of its own",
    ],
  ],
};

export async function login(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const url = args.positionals[0]?.replace(/\/+$/, "");
  if (url === undefined) throw usage("which relay? memferry login https://HOST:PORT");
  const address = parseRelayUrl(url);
  const certificateHash = parseHash(args.text("certificate-hash"));
  const certificateHashes = certificateHash === undefined ? [] : [certificateHash];
  const open: { destroy(): void }[] = [];
  try {
    await connectPinned({ address, certificateHashes, connectTcp: routedTcp }, open);
  } catch (cause) {
    const error = connectionError(address, cause);
    if (error.code !== "CERTIFICATE_UNTRUSTED") throw error;
    const presented = await presentedCertificateHash(address, routedTcp);
    throw new LinkError(
      "CERTIFICATE_UNTRUSTED",
      `${address.text} has a certificate of its own: compare its hash with what the relay printed, then add --certificate-hash ${toHex(presented)}`,
      { cause: error },
    );
  } finally {
    destroyLater(open);
  }
  const environment = peerEnvironment();
  const keyFile = args.text("key-file");
  const key =
    keyFile === undefined && environment.key !== undefined
      ? environment.key
      : await readSecret(keyFile ?? "-", "--key-file");
  if (key === "") throw usage("the API key is empty");
  await new ApiClient({ url, certificateHashes, key }).listSessions("?limit=1");
  await saveRelay(environment.configFile, {
    url,
    key,
    certificateHashes: certificateHashes.map(toHex),
    ...(certificateHashes.length === 0
      ? {}
      : { identity: toHex(await relayIdentityOf({ address, certificateHashes })) }),
  });
  output.event({ event: "login", url });
  output.note(`${url} is the default relay now (${environment.configFile})`);
  return ExitCode.done;
}

/** Hexadecimal with or without colons, or base64url. */
function parseHash(text: string | undefined): Uint8Array | undefined {
  if (text === undefined) return undefined;
  const hex = text.replaceAll(":", "").toLowerCase();
  if (/^[0-9a-f]{64}$/.test(hex)) return Uint8Array.from(Buffer.from(hex, "hex"));
  try {
    const bytes = fromBase64Url(text);
    if (bytes.length === 32) return bytes;
  } catch {
    // Falls through to the one message for both forms.
  }
  throw usage(`--certificate-hash ${text} is not a SHA-256 hash`);
}
