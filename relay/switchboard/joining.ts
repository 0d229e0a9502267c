/**
 * From a peer's `hello` to the session that it is let into.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import { messageOf, ProtocolError } from "../protocol/errors.ts";
import { type HelloFrame, proofMessage } from "../protocol/frame.ts";
import { CHALLENGE_BYTES } from "../protocol/ids.ts";
import { PREFACE_BYTES_MAX } from "../protocol/limits.ts";
import { type MessageReader, readFrame, writeFrame } from "../protocol/message-stream.ts";
import type { ByteStream } from "../protocol/stream.ts";
import { PROTOCOL_MAJOR } from "../protocol/version.ts";
import type { SwitchboardBounds } from "./bounds.ts";
import { verifies, type VerifyProof } from "./proof.ts";
import type { JoinedSession, SessionStore } from "./session-store.ts";

export interface JoinOptions {
  readonly store: SessionStore;
  readonly log: (level: "warn", message: string, fields: Record<string, unknown>) => void;
  readonly verifyProof?: VerifyProof;
  readonly bounds?: SwitchboardBounds;
  readonly stream: ByteStream;
  readonly reader: MessageReader;
  /** Whether a peer of the session is connected. */
  readonly isHere: (sessionId: Uint8Array) => boolean;
}

/** @throws ProtocolError why it is not let in; `LimitRefusal` if it may be later. */
export async function join(hello: HelloFrame, options: JoinOptions): Promise<JoinedSession> {
  if (hello.major !== PROTOCOL_MAJOR) {
    throw new ProtocolError(
      "VERSION_UNSUPPORTED",
      `this relay speaks version ${PROTOCOL_MAJOR} of the relay protocol and the peer ${hello.major}: install the same major version on both`,
    );
  }
  const { sessionId, role, peerKey, token } = hello;
  const { store, bounds, stream, reader, verifyProof = verifies } = options;
  if (token !== undefined) {
    // Who comes back is let in: its workload may wait.
    const isNew = !options.isHere(sessionId);
    const full = isNew ? bounds?.refusal(undefined) : undefined;
    if (full !== undefined) throw full;
    const joined = await ask(options, () => store.useTicket({ sessionId, role, token, peerKey }));
    const spent = isNew ? bounds?.refusal(joined.bounds?.projectId) : undefined;
    // The ticket is this peer's now, and good when it asks again.
    if (spent !== undefined) throw spent;
    return joined;
  }
  const challenge = randomBytes(CHALLENGE_BYTES);
  await writeFrame(stream, { kind: "challenge", challenge });
  const proof = await readFrame(reader, PREFACE_BYTES_MAX);
  if (proof?.kind !== "proof") throw new ProtocolError("FRAME_UNEXPECTED", "a proof was due");
  const message = proofMessage(challenge, sessionId, role);
  if (!(await verifyProof(peerKey, proof.signature, message))) {
    throw new ProtocolError("PROOF_INVALID", "the signature is not this peer key's");
  }
  return await ask(options, () => store.rejoin({ sessionId, role, peerKey }));
}

/** Who is not let in because the database does not answer has done nothing wrong, and is to ask again. */
async function ask<T>({ log }: JoinOptions, question: () => Promise<T>): Promise<T> {
  try {
    return await question();
  } catch (error) {
    if (error instanceof ProtocolError) throw error;
    log("warn", "a peer could not be let in", { reason: messageOf(error) });
    throw new ProtocolError("RELAY_UNAVAILABLE", "the relay's database does not answer", {
      cause: error,
    });
  }
}
