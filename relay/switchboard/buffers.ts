/**
 * How much each stream may hold for a reader that is slow, so that all of them together stay within a bound.
 *
 * A stream that nobody has been found for yet gets little. Streams that are joined share what their session may hold,
 * and sessions what the relay may: equally by project, so that a project with many streams that nobody reads makes
 * its own smaller and not those of others.
 *
 * @module
 */
import { STREAM_BUFFER_BYTES_MAX } from "../protocol/limits.ts";
import type { BufferBound } from "../protocol/stream.ts";

/** The least for a stream, each way: a message of a peer's. */
export const STREAM_BUFFER_BYTES_MIN = 64 * 1024;
/** A stream of which nothing is known yet, and a control stream, hold this much. */
export const UNKNOWN_STREAM_BOUND: BufferBound = { bytes: STREAM_BUFFER_BYTES_MIN };
/** A pair has two streams, and each holds what arrived and what is to be sent. */
const BUFFERS_PER_PAIR = 4;

export interface BufferLimits {
  readonly sessionBufferBytes: number;
  readonly nodeBufferBytes: number;
}

interface ProjectPairs {
  pairs: number;
}

/** What a session's streams may hold each; shared by all of them. */
export class SessionBuffers implements BufferBound {
  readonly #owner: NodeBuffers;
  readonly #projectId: string;
  #pairs = 0;

  constructor(owner: NodeBuffers, projectId: string) {
    this.#owner = owner;
    this.#projectId = projectId;
  }

  get bytes(): number {
    return this.#owner.bytesFor(this.#projectId, this.#pairs);
  }

  /** A pair of streams was joined, or parted. */
  count(change: 1 | -1): void {
    this.#pairs += change;
    this.#owner.count(this.#projectId, change);
  }
}

export class NodeBuffers {
  readonly #limits: BufferLimits;
  readonly #projects = new Map<string, ProjectPairs>();
  #pairs = 0;

  constructor(limits: BufferLimits) {
    this.#limits = limits;
  }

  /** Pairs of streams that are joined now. */
  get pairs(): number {
    return this.#pairs;
  }

  session(projectId: string): SessionBuffers {
    return new SessionBuffers(this, projectId);
  }

  bytesFor(projectId: string, sessionPairs: number): number {
    const { sessionBufferBytes, nodeBufferBytes } = this.#limits;
    const projectPairs = this.#projects.get(projectId)?.pairs ?? 0;
    const ofSession = sessionBufferBytes / (BUFFERS_PER_PAIR * Math.max(1, sessionPairs));
    const ofProject = nodeBufferBytes / Math.max(1, this.#projects.size);
    const ofNode = ofProject / (BUFFERS_PER_PAIR * Math.max(1, projectPairs));
    const bytes = Math.min(STREAM_BUFFER_BYTES_MAX, ofSession, ofNode);
    return Math.max(STREAM_BUFFER_BYTES_MIN, Math.floor(bytes));
  }

  count(projectId: string, change: 1 | -1): void {
    this.#pairs += change;
    const project = this.#projects.get(projectId) ?? { pairs: 0 };
    project.pairs += change;
    if (project.pairs > 0) this.#projects.set(projectId, project);
    else this.#projects.delete(projectId);
  }
}
