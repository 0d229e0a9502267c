/**
 * The network between two peers of one process, on which somebody may damage, cut or say what he likes.
 *
 * @module
 */
import type { ChannelNetwork } from "../../peer/migration/channel.ts";
import { OWN_FEATURES, type ChannelKeys, type Handshake } from "../../peer/migration/handshake.ts";
import { SealedStream } from "../../peer/migration/sealed-stream.ts";
import { ProtocolError, type ProtocolErrorCode } from "../../relay/protocol/errors.ts";
import type { ByteStream, CloseInfo } from "../../relay/protocol/stream.ts";
import { count } from "../fixtures/example.ts";
import { pipe, type Wire } from "../support/wire.ts";

/** What becomes of the bytes that one side writes to one stream. */
export type Damage = (bytes: Uint8Array, offset: number) => Uint8Array;

export interface Damaged {
  readonly side: "a" | "b";
  readonly streamIndex: number;
  readonly damage: Damage;
}

export class FuzzNetwork {
  readonly a: ChannelNetwork;
  readonly b: ChannelNetwork;
  readonly #lost = new AbortController();
  readonly #wires = new Map<number, Wire>();
  readonly #damaged: Damaged | undefined;
  #writtenAtMs = performance.now();

  constructor(damaged?: Damaged) {
    this.#damaged = damaged;
    this.a = this.#side("a");
    this.b = this.#side("b");
  }

  /** How long nothing has been written. */
  get quietMs(): number {
    return performance.now() - this.#writtenAtMs;
  }

  /** The path is gone. */
  cut(): void {
    this.#lost.abort(new ProtocolError("LINK_CLOSED", "the path is cut"));
    for (const wire of this.#wires.values()) {
      wire.a.abort("LINK_CLOSED", "the path is cut");
    }
  }

  #side(side: "a" | "b"): ChannelNetwork {
    return {
      linkKind: "memory",
      lost: this.#lost.signal,
      openStream: (streamIndex) => {
        const wire = this.#wires.get(streamIndex) ?? pipe();
        this.#wires.set(streamIndex, wire);
        const { side: damagedSide, streamIndex: index, damage } = this.#damaged ?? {};
        const change = side === damagedSide && streamIndex === index ? damage : undefined;
        return Promise.resolve(new Tapped(wire[side], change, () => this.#written()));
      },
    };
  }

  #written(): void {
    this.#writtenAtMs = performance.now();
  }
}

class Tapped implements ByteStream {
  readonly closed: Promise<CloseInfo>;
  readonly #stream: ByteStream;
  readonly #damage: Damage | undefined;
  readonly #onWrite: () => void;
  #offset = 0;

  constructor(stream: ByteStream, damage: Damage | undefined, onWrite: () => void) {
    this.#stream = stream;
    this.#damage = damage;
    this.#onWrite = onWrite;
    this.closed = stream.closed;
  }

  read(): Promise<Uint8Array | null> {
    return this.#stream.read();
  }

  write(bytes: Uint8Array): Promise<void> {
    this.#onWrite();
    const changed = this.#damage?.(bytes, this.#offset) ?? bytes;
    this.#offset += bytes.length;
    return changed.length === 0 ? Promise.resolve() : this.#stream.write(changed);
  }

  end(): Promise<void> {
    return this.#stream.end();
  }

  abort(code: ProtocolErrorCode, reason: string): void {
    this.#stream.abort(code, reason);
  }
}

const KEYS: ChannelKeys = {
  seederToLeecher: count(32, 1),
  leecherToSeeder: count(32, 2),
  fingerprint: "0000-0000",
  dataStreams: 1,
  features: OWN_FEATURES,
};

/** Both sides have the same keys already: nothing is said. */
export const noHandshake: Handshake = {
  seeder: () => Promise.resolve(KEYS),
  leecher: () => Promise.resolve(KEYS),
};

/** The streams of a peer that holds the keys and says what it likes: control, urgent, data. */
export async function hostileStreams(
  network: ChannelNetwork,
  role: "seeder" | "leecher",
): Promise<SealedStream[]> {
  return await Promise.all(
    [0, 1, 2].map(
      async (streamIndex) =>
        new SealedStream(await network.openStream(streamIndex), {
          streamIndex,
          sendSecret: role === "seeder" ? KEYS.seederToLeecher : KEYS.leecherToSeeder,
          receiveSecret: role === "seeder" ? KEYS.leecherToSeeder : KEYS.seederToLeecher,
          messageBytesMax: 8 * 1024 * 1024,
        }),
    ),
  );
}
