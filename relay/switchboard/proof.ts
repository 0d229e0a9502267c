/**
 * Whether a peer that comes back is the one that used the ticket.
 *
 * @module
 */

/** Whether the holder of an ed25519 key signed a message. */
export type VerifyProof = (
  peerKey: Uint8Array,
  signature: Uint8Array,
  message: Uint8Array,
) => Promise<boolean>;

/** By WebCrypto, which every runtime has. */
export const verifies: VerifyProof = async (peerKey, signature, message) => {
  try {
    const raw = Uint8Array.from(peerKey);
    const key = await crypto.subtle.importKey("raw", raw, "Ed25519", false, ["verify"]);
    return await crypto.subtle.verify(
      "Ed25519",
      key,
      Uint8Array.from(signature),
      Uint8Array.from(message),
    );
  } catch {
    // Not a key, or not a signature: which it is does not matter to who is refused.
    return false;
  }
};
