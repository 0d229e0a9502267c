/**
 * Which certificates a relay is known by, and how a peer follows when they are renewed.
 *
 * Who pins a certificate meets another one after a renewal, and also when somebody is in between. The relay's
 * identity tells the two apart: it signs the list of the relay's certificates together with a nonce of ours. The
 * connection that brings the list need not be trusted, and the one that is made next is checked as ever.
 *
 * @module
 */
import { createPublicKey, randomBytes, verify } from "node:crypto";
import * as https from "node:https";
import type { TLSSocket } from "node:tls";
import { toBase64Url, toHex } from "../../relay/protocol/bytes.ts";
import { ProtocolError } from "../../relay/protocol/errors.ts";
import {
  certificatesMessage,
  decodeSignedCertificates,
  RELAY_CERTIFICATES_PATH,
  RELAY_NONCE_BYTES,
  type SignedCertificates,
} from "../../relay/protocol/relay-certificates.ts";
import type { Ticket } from "../../relay/protocol/ticket.ts";
import {
  certificateMismatch,
  connectionError,
  deadlineExceeded,
  type RelayAddress,
} from "./address.ts";
import { LinkError } from "./errors.ts";
import { routedTcp } from "./proxy.ts";
import { connectPinned, connectUnverified, destroyLater, type ConnectTcp } from "./tls.ts";

const ANSWER_BYTES_MAX = 16 * 1024;
const ANSWER_DEADLINE_MS = 5_000;
/** DER before the 32 bytes of an ed25519 public key (RFC 8410). */
const SPKI_PREFIX = Buffer.from("302a300506032b6570032100", "hex");

/** A relay as a ticket or a login names it. */
export interface PinnedRelay {
  readonly address: RelayAddress;
  /** SHA-256 of the DER; if empty the system's trust store decides. */
  readonly certificateHashes: readonly Uint8Array[];
  readonly relayIdentity?: Uint8Array | undefined;
  readonly connectTcp?: ConnectTcp;
}

/** What a ticket says of its relay, in the words of `DialOptions`. */
export function relayOf(ticket: Ticket) {
  const { relayUrl: url, certificateHashes, relayIdentity } = ticket;
  return { url, certificateHashes, relayIdentity };
}

/** What this process has learnt, by address and identity: it is the same for every connection to that relay. */
const learnt = new Map<string, readonly Uint8Array[]>();
const asking = new Map<string, Promise<readonly Uint8Array[]>>();

/** The hashes that count now: those given, or those that the relay's identity has vouched for since. */
export function currentPins(relay: PinnedRelay): readonly Uint8Array[] {
  return learnt.get(keyOf(relay)) ?? relay.certificateHashes;
}

/**
 * Connects, and once more with the relay's new certificates if it shows another one than is known.
 *
 * @throws what `connect` throws; LinkError `CERTIFICATE_MISMATCH` if the relay's identity does not vouch for what
 * is shown there, another LinkError if it could not be asked.
 */
export async function withCurrentPins<T>(
  relay: PinnedRelay,
  connect: (certificateHashes: readonly Uint8Array[]) => Promise<T>,
): Promise<T> {
  const pins = currentPins(relay);
  try {
    return await connect(pins);
  } catch (error) {
    if (!isMismatch(error) || relay.relayIdentity === undefined || pins.length === 0) throw error;
    const renewed = await refreshed(relay, relay.relayIdentity, pins);
    if (samePins(pins, renewed)) throw error;
    return await connect(renewed);
  }
}

/** @returns What is known by now, asked for unless another connection has learnt it meanwhile. */
async function refreshed(
  relay: PinnedRelay,
  identity: Uint8Array,
  stale: readonly Uint8Array[],
): Promise<readonly Uint8Array[]> {
  const known = currentPins(relay);
  if (!samePins(known, stale)) return known;
  const key = keyOf(relay);
  let answer = asking.get(key);
  if (answer === undefined) {
    answer = askRelay(relay, identity).finally(() => asking.delete(key));
    asking.set(key, answer);
  }
  const pins = await answer;
  learnt.set(key, pins);
  return pins;
}

/**
 * The identity of the relay whose certificate is known, to be kept with it.
 *
 * @throws LinkError
 */
export async function relayIdentityOf(relay: PinnedRelay): Promise<Uint8Array> {
  const { address, certificateHashes } = relay;
  const { identity } = await ask(address, undefined, (open) =>
    connectPinned({ address, certificateHashes, connectTcp: relay.connectTcp ?? routedTcp }, open),
  );
  return identity;
}

/**
 * The hashes of the relay's certificates, asked of whoever answers there and believed to `identity` alone.
 *
 * @throws LinkError
 */
async function askRelay(
  { address, connectTcp }: PinnedRelay,
  identity: Uint8Array,
): Promise<readonly Uint8Array[]> {
  const target = { address, connectTcp: connectTcp ?? routedTcp };
  const { certificates } = await ask(address, identity, (open) => connectUnverified(target, open));
  return certificates.map(({ hash }) => hash);
}

/** @param identity Whose signature counts; without it, that of whom the answer names. */
async function ask(
  address: RelayAddress,
  identity: Uint8Array | undefined,
  connect: (open: { destroy(): void }[]) => Promise<TLSSocket>,
): Promise<SignedCertificates> {
  const nonce = randomBytes(RELAY_NONCE_BYTES);
  const path = `${RELAY_CERTIFICATES_PATH}?nonce=${toBase64Url(nonce)}`;
  const open: { destroy(): void }[] = [];
  let timer;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(deadlineExceeded(address, ANSWER_DEADLINE_MS)),
      ANSWER_DEADLINE_MS,
    );
  });
  const answer = connect(open).then((socket) => get(socket, address, path));
  // It loses against the deadline, and then fails when its socket goes.
  answer.catch(() => {});
  let text;
  try {
    text = await Promise.race([answer, late]);
  } catch (error) {
    throw connectionError(address, error);
  } finally {
    clearTimeout(timer);
    destroyLater(open);
  }
  const signed = decoded(text);
  if (signed === undefined || !isSignedBy(identity ?? signed.identity, nonce, signed)) {
    throw certificateMismatch(address);
  }
  return signed;
}

/** `undefined` for what no relay says: the same as a signature that is not its own. */
function decoded(text: string): SignedCertificates | undefined {
  try {
    return decodeSignedCertificates(text);
  } catch (error) {
    if (error instanceof ProtocolError) return undefined;
    throw error;
  }
}

function isSignedBy(identity: Uint8Array, nonce: Uint8Array, signed: SignedCertificates): boolean {
  const { certificates, signature } = signed;
  const der = Buffer.concat([SPKI_PREFIX, identity]);
  try {
    const key = createPublicKey({ key: der, format: "der", type: "spki" });
    return (
      certificates.length > 0 &&
      verify(null, certificatesMessage(nonce, certificates), key, signature)
    );
  } catch {
    // 32 bytes that are no key: a damaged ticket or login.
    return false;
  }
}

function get(socket: TLSSocket, address: RelayAddress, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = https.request({
      method: "GET",
      path,
      host: address.host,
      port: address.port,
      createConnection: () => socket,
      headers: { host: address.text, accept: "application/json", connection: "close" },
    });
    request.once("error", reject);
    request.once("response", (response) => {
      if (response.statusCode === 503 || response.statusCode === 502) {
        // A proxy whose relay is just being started again.
        return reject(hungUp());
      }
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (part: string) => {
        text += part;
        if (text.length > ANSWER_BYTES_MAX) request.destroy(certificateMismatch(address));
      });
      response.once("error", reject);
      response.once("end", () => resolve(text));
      response.once("close", () => reject(hungUp()));
    });
    request.end();
  });
}

function hungUp(): Error {
  return Object.assign(new Error("the connection was closed"), { code: "ECONNRESET" });
}

function isMismatch(error: unknown): boolean {
  return error instanceof LinkError && error.code === "CERTIFICATE_MISMATCH";
}

function samePins(a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean {
  const texts = new Set(a.map(toHex));
  return texts.size === new Set(b.map(toHex)).size && b.every((hash) => texts.has(toHex(hash)));
}

function keyOf({ address, relayIdentity }: PinnedRelay): string {
  return `${address.text} ${relayIdentity === undefined ? "" : toHex(relayIdentity)}`;
}
