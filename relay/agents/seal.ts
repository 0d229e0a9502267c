/**
 * What only one peer shall read: sealed to its X25519 key by HPKE (RFC 9180, base mode).
 *
 * @module
 */
import { Aes256Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core";

import { sealedTokenInfo, type SealedBytes } from "../protocol/agent.ts";
import type { Role } from "../protocol/ids.ts";

/** The ticket's token for a peer that is ordered to use it: it is nowhere else, as a hash apart. */
export async function sealToken(
  to: { readonly sealingKey: Uint8Array },
  ticket: { readonly sessionId: Uint8Array; readonly role: Role; readonly token: Uint8Array },
): Promise<SealedBytes> {
  const suite = new CipherSuite({
    kem: new DhkemX25519HkdfSha256(),
    kdf: new HkdfSha256(),
    aead: new Aes256Gcm(),
  });
  const recipientPublicKey = await suite.kem.deserializePublicKey(Uint8Array.from(to.sealingKey));
  const { ct, enc } = await suite.seal(
    {
      recipientPublicKey,
      info: Uint8Array.from(sealedTokenInfo(ticket.sessionId, ticket.role)),
    },
    Uint8Array.from(ticket.token),
  );
  return { encapsulated: new Uint8Array(enc), ciphertext: new Uint8Array(ct) };
}
