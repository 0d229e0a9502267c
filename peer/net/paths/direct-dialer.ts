/**
 * What the path manager needs to go direct. `UdpDialer` is the real one; the simulation has another.
 *
 * @module
 */
import type { Role } from "../../../relay/protocol/ids.ts";
import type { ByteStream } from "../../../relay/protocol/stream.ts";
import type { Candidate, NatKind } from "./candidate.ts";
import type { AttemptKeys } from "./signal.ts";

export interface DirectDialer {
  /** A socket, and where it can be reached. @throws what keeps it from that, or the signal's reason */
  open(signal: AbortSignal): Promise<DirectEndpoint>;
}

export interface DirectEndpoint {
  readonly candidates: readonly Candidate[];
  /** Undefined where no relay could tell. */
  readonly nat: NatKind | undefined;
  /**
   * Both sides call it at about the same time. The leecher decides which addresses are used.
   *
   * @returns `undefined` if nothing of the other side came through. @throws the signal's reason
   */
  connect(request: ConnectRequest): Promise<DirectNetwork | undefined>;
  close(): Promise<void>;
}

export interface ConnectRequest {
  readonly role: Role;
  readonly keys: AttemptKeys;
  readonly candidates: readonly Candidate[];
  /** What the relayed path carries; 0 if nothing is known. */
  readonly bytesPerS: number;
  readonly signal: AbortSignal;
}

/** A direct path. Its streams are known to both sides by number. */
export interface DirectNetwork {
  /** `address:port` of the other side, for people. */
  readonly remote: string;
  readonly rttMs: number;
  /** Aborted when it is dead, by either side's doing. */
  readonly lost: AbortSignal;
  openStream(streamIndex: number): Promise<ByteStream>;
  close(reason: string): Promise<void>;
}
