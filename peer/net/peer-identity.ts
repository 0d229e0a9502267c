/**
 * The key by which the relay knows a peer again after it used its ticket.
 *
 * @module
 */
import { createPrivateKey, generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { proofMessage } from "../../relay/protocol/frame.ts";
import { PEER_KEY_BYTES, type Role } from "../../relay/protocol/ids.ts";

/** Bytes of DER before the 32 bytes of an ed25519 public key (RFC 8410). */
const SPKI_PREFIX_BYTES = 12;

export class PeerIdentity {
  readonly #privateKey: KeyObject;
  /** 32 bytes. */
  readonly publicKey: Uint8Array;

  private constructor(privateKey: KeyObject, publicKey: Uint8Array) {
    this.#privateKey = privateKey;
    this.publicKey = publicKey;
  }

  static generate(): PeerIdentity {
    const { privateKey, publicKey } = generateKeyPairSync("ed25519");
    const spki = publicKey.export({ type: "spki", format: "der" });
    return new PeerIdentity(
      privateKey,
      new Uint8Array(spki.subarray(SPKI_PREFIX_BYTES, SPKI_PREFIX_BYTES + PEER_KEY_BYTES)),
    );
  }

  /** Restores what `toPkcs8` gave. */
  static fromPkcs8(der: Uint8Array, publicKey: Uint8Array): PeerIdentity {
    const key = createPrivateKey({ key: Buffer.from(der), format: "der", type: "pkcs8" });
    return new PeerIdentity(key, publicKey);
  }

  toPkcs8(): Uint8Array {
    return this.#privateKey.export({ type: "pkcs8", format: "der" });
  }

  /** @returns 64 bytes: the signature of the relay's challenge for this session and role. */
  prove(challenge: Uint8Array, sessionId: Uint8Array, role: Role): Uint8Array {
    return sign(null, proofMessage(challenge, sessionId, role), this.#privateKey);
  }
}
