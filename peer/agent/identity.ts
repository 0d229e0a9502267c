/**
 * Who an agent is: its ed25519 key, the X25519 key that others seal to, and the relay that it belongs to.
 *
 * @module
 */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  sign,
  verify,
  type KeyObject,
} from "node:crypto";
import { chmod, mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { Aes256Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core";
import {
  agentLoginMessage,
  sealedSecretInfo,
  sealedSecretMessage,
  sealedToText,
  sealedFromText,
  sealingKeyMessage,
  type OrderPeer,
  type SealedBytes,
  type SecretContext,
  type SignedSealedText,
} from "../../relay/protocol/agent.ts";
import { fromBase64Url, toBase64Url, toHex } from "../../relay/protocol/bytes.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { MigrationError } from "../errors.ts";
import { replaceFile, syncDirectory } from "../journal/envelope.ts";

const FILE = "agent.json";
/** Bytes of DER before the 32 bytes of a public key (RFC 8410). */
const SPKI_PREFIX_BYTES = 12;
const ED25519_SPKI = Buffer.from("302a300506032b6570032100", "hex");

export interface AgentRelay {
  readonly url: string;
  readonly certificateHashes: readonly Uint8Array[];
  readonly identity: Uint8Array;
}

export class AgentIdentity {
  readonly relay: AgentRelay;
  /** 32 bytes. */
  readonly publicKey: Uint8Array;
  /** 32 bytes. */
  readonly sealingKey: Uint8Array;
  readonly #privateKey: KeyObject;
  readonly #sealingPrivateKey: KeyObject;

  private constructor(privateKey: KeyObject, sealingPrivateKey: KeyObject, relay: AgentRelay) {
    this.#privateKey = privateKey;
    this.#sealingPrivateKey = sealingPrivateKey;
    this.publicKey = rawPublicKey(privateKey);
    this.sealingKey = rawPublicKey(sealingPrivateKey);
    this.relay = relay;
  }

  static generate(relay: AgentRelay): AgentIdentity {
    return new AgentIdentity(
      generateKeyPairSync("ed25519").privateKey,
      generateKeyPairSync("x25519").privateKey,
      relay,
    );
  }

  /** The one that is kept there. @throws MigrationError `JOURNAL_INVALID` if it is damaged */
  static async load(directory: string): Promise<AgentIdentity | undefined> {
    const file = join(directory, FILE);
    let text;
    try {
      text = await readFile(file, "utf8");
    } catch (cause) {
      if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
      throw damaged(file, cause);
    }
    try {
      const fields: unknown = JSON.parse(text);
      const at = (name: string): string => {
        const value: unknown =
          typeof fields === "object" && fields !== null ? Reflect.get(fields, name) : undefined;
        if (typeof value !== "string") throw new Error(`no ${name}`);
        return value;
      };
      const hashes = at("certificateHashes").split(" ").filter(Boolean);
      return new AgentIdentity(privateKeyOf(at("privateKey")), privateKeyOf(at("sealingKey")), {
        url: at("relayUrl"),
        certificateHashes: hashes.map(fromBase64Url),
        identity: fromBase64Url(at("relayIdentity")),
      });
    } catch (cause) {
      throw damaged(file, cause);
    }
  }

  /** 64 hexadecimal digits. */
  get id(): string {
    return toHex(this.publicKey);
  }

  /** Written before the relay hears of it, so that an answer that was lost costs nothing. */
  async save(directory: string): Promise<void> {
    const der = (key: KeyObject): string =>
      toBase64Url(key.export({ type: "pkcs8", format: "der" }));
    const { url, certificateHashes, identity } = this.relay;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await chmod(directory, 0o700);
    const kept = {
      version: 1,
      relayUrl: url,
      certificateHashes: certificateHashes.map(toBase64Url).join(" "),
      relayIdentity: toBase64Url(identity),
      privateKey: der(this.#privateKey),
      sealingKey: der(this.#sealingPrivateKey),
    };
    await replaceFile(join(directory, FILE), Buffer.from(`${JSON.stringify(kept, null, 2)}\n`));
    await syncDirectory(directory);
  }

  login(nonce: Uint8Array): Uint8Array {
    const { identity: relayIdentity } = this.relay;
    return this.#sign(agentLoginMessage({ relayIdentity, nonce, peerKey: this.publicKey }));
  }

  signedSealingKey(): Uint8Array {
    return this.#sign(sealingKeyMessage(this.publicKey, this.sealingKey));
  }

  /**
   * Seals a session's secret to the peer that receives, so that the relay can carry it and not read it.
   *
   * @throws MigrationError `CHANNEL_REFUSED` if the sealing key is not that peer's own
   */
  async sealSecret(
    sessionId: Uint8Array,
    to: OrderPeer,
    secret: Uint8Array,
  ): Promise<SignedSealedText> {
    const leecherKey = Uint8Array.from(Buffer.from(to.id, "hex"));
    const sealingKey = fromBase64Url(to.sealingKey);
    const signed = sealingKeyMessage(leecherKey, sealingKey);
    if (!isSignedBy(leecherKey, signed, fromBase64Url(to.sealingKeySignature))) {
      throw new MigrationError(
        "CHANNEL_REFUSED",
        "the key to seal the secret with is not signed by the peer that is to receive",
      );
    }
    const context = { sessionId, seederKey: this.publicKey, leecherKey };
    const cipher = suite();
    const { ct, enc } = await cipher.seal(
      {
        recipientPublicKey: await cipher.kem.deserializePublicKey(sealingKey),
        info: Uint8Array.from(sealedSecretInfo(context)),
      },
      Uint8Array.from(secret),
    );
    const sealed = { encapsulated: new Uint8Array(enc), ciphertext: new Uint8Array(ct) };
    const signature = this.#sign(sealedSecretMessage(context, sealed));
    return { ...sealedToText(sealed), signature: toBase64Url(signature) };
  }

  /** @throws MigrationError `CHANNEL_REFUSED` if it is not from the peer that sends */
  async openSecret(
    sessionId: Uint8Array,
    from: OrderPeer,
    text: SignedSealedText,
  ): Promise<Uint8Array> {
    const seederKey = Uint8Array.from(Buffer.from(from.id, "hex"));
    const context: SecretContext = { sessionId, seederKey, leecherKey: this.publicKey };
    const sealed = sealedFromText(text);
    const message = sealedSecretMessage(context, sealed);
    if (!isSignedBy(seederKey, message, fromBase64Url(text.signature))) {
      throw new MigrationError(
        "CHANNEL_REFUSED",
        "the session's secret is not signed by the peer that is to send",
      );
    }
    return await this.open(sealed, sealedSecretInfo(context));
  }

  /** @throws what HPKE throws if it was not sealed to this agent, or for something else */
  async open({ encapsulated, ciphertext }: SealedBytes, info: Uint8Array): Promise<Uint8Array> {
    const cipher = suite();
    const jwk = this.#sealingPrivateKey.export({ format: "jwk" });
    const recipientKey = await cipher.kem.importKey(
      "jwk",
      { ...jwk, key_ops: ["deriveBits"] },
      false,
    );
    const opened = await cipher.open(
      { recipientKey, enc: Uint8Array.from(encapsulated), info: Uint8Array.from(info) },
      Uint8Array.from(ciphertext),
    );
    return new Uint8Array(opened);
  }

  #sign(message: Uint8Array): Uint8Array {
    return new Uint8Array(sign(null, message, this.#privateKey));
  }
}

function suite(): CipherSuite {
  return new CipherSuite({
    kem: new DhkemX25519HkdfSha256(),
    kdf: new HkdfSha256(),
    aead: new Aes256Gcm(),
  });
}

function isSignedBy(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
  try {
    const der = Buffer.concat([ED25519_SPKI, publicKey]);
    const key = createPublicKey({ key: der, format: "der", type: "spki" });
    return verify(null, message, key, signature);
  } catch {
    // 32 bytes that are no key.
    return false;
  }
}

function rawPublicKey(privateKey: KeyObject): Uint8Array {
  const spki = createPublicKey(privateKey).export({ type: "spki", format: "der" });
  return new Uint8Array(spki.subarray(SPKI_PREFIX_BYTES, SPKI_PREFIX_BYTES + 32));
}

function privateKeyOf(text: string): KeyObject {
  const key = Buffer.from(fromBase64Url(text));
  return createPrivateKey({ key, format: "der", type: "pkcs8" });
}

function damaged(file: string, cause: unknown): MigrationError {
  return new MigrationError(
    "JOURNAL_INVALID",
    `${file} is not this host's identity any more (${messageOf(cause)}): restore it, or move it away and enroll anew`,
    { cause },
  );
}
