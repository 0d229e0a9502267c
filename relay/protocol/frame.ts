/**
 * The frames between a peer and the relay, and their bytes. README.md beside this file has the table.
 *
 * A frame is `u32 length` (of what follows the five header bytes), `u8 kind`, then its fields.
 * Kinds below 0x40 are sent by peers, the others by the relay; numbers are never reused.
 *
 * @module
 */
import { ByteReader, ByteWriter, malformed } from "./bytes.ts";
import { DISCOVERY_TOKEN_BYTES } from "./discovery.ts";
import { ProtocolError, ProtocolErrorNumber, protocolErrorCode } from "./errors.ts";
import {
  CHALLENGE_BYTES,
  PEER_KEY_BYTES,
  ROLES,
  SESSION_ID_BYTES,
  SESSION_STATES,
  SIGNATURE_BYTES,
  STREAM_SECRET_BYTES,
  TICKET_TOKEN_BYTES,
  type Role,
} from "./ids.ts";
import {
  CHUNK_BYTES_MAX,
  CHUNK_BYTES_MIN,
  INDEX_DELTA_ENTRIES_MAX,
  INDEX_SEGMENT_CHUNKS,
  REGION_BYTES_MAX,
  SIGNAL_BYTES_MAX,
  TEXT_BYTES_MAX,
} from "./limits.ts";
import { COMMANDS, type Frame, type PeerToRelayFrame } from "./frame-types.ts";
import {
  PATH_KINDS,
  PROGRESS_FIELDS,
  PROGRESS_MORE_FIELDS,
  type Progress,
  type ProgressMore,
} from "./progress.ts";
import { PROTOCOL_MAJOR } from "./version.ts";

export * from "./frame-types.ts";
export { PROGRESS_FIELDS, type Progress, type ProgressMore } from "./progress.ts";

export const FRAME_HEADER_BYTES = 5;
export const HASH_BYTES = 32;
/** `index u32, epoch u32, hash`. */
export const INDEX_DELTA_ENTRY_BYTES = 40;

interface Codec<F extends Frame> {
  readonly number: number;
  encode(frame: F, writer: ByteWriter): void;
  decode(reader: ByteReader): F;
}

type Codecs = { readonly [K in Frame["kind"]]: Codec<Extract<Frame, { kind: K }>> };

const TERM_MODES = ["live", "precopy"] as const;

const codecs: Codecs = {
  hello: {
    number: 0x01,
    encode: (frame, writer) => {
      writer.u16(frame.major).u16(frame.minor).u32(frame.features);
      writer.u8(ROLES.indexOf(frame.role)).bytes(frame.sessionId).bytes(frame.peerKey);
      writer.u8(frame.token === undefined ? 0 : 1);
      if (frame.token !== undefined) writer.bytes(frame.token);
    },
    decode: (reader) => ({
      kind: "hello",
      // Before the other fields: those of another major version may be others.
      major: supportedMajor(reader.u16()),
      minor: reader.u16(),
      features: reader.u32(),
      role: oneOf(ROLES, reader.u8(), "role"),
      sessionId: reader.bytes(SESSION_ID_BYTES),
      peerKey: reader.bytes(PEER_KEY_BYTES),
      token: flag(reader) ? reader.bytes(TICKET_TOKEN_BYTES) : undefined,
    }),
  },
  stream: {
    number: 0x02,
    encode: (frame, writer) => {
      writer.bytes(frame.sessionId).u8(ROLES.indexOf(frame.role)).bytes(frame.streamSecret);
      writer.u32(frame.pairing).u16(frame.streamIndex);
    },
    decode: (reader) => ({
      kind: "stream",
      sessionId: reader.bytes(SESSION_ID_BYTES),
      role: oneOf(ROLES, reader.u8(), "role"),
      streamSecret: reader.bytes(STREAM_SECRET_BYTES),
      pairing: reader.u32(),
      streamIndex: reader.u16(),
    }),
  },
  proof: {
    number: 0x03,
    encode: (frame, writer) => writer.bytes(frame.signature),
    decode: (reader) => ({ kind: "proof", signature: reader.bytes(SIGNATURE_BYTES) }),
  },
  commit: {
    number: 0x04,
    encode: (frame, writer) => writer.u32(frame.epoch),
    decode: (reader) => ({ kind: "commit", epoch: reader.u32() }),
  },
  describe: {
    number: 0x05,
    encode: (frame, writer) => {
      writer.text(frame.regionName, TEXT_BYTES_MAX);
      writer.u53(frame.regionBytes).u32(frame.chunkBytes);
      writer.text(frame.host, TEXT_BYTES_MAX).text(frame.version, TEXT_BYTES_MAX);
    },
    decode: (reader) => ({
      kind: "describe",
      regionName: reader.text(TEXT_BYTES_MAX),
      regionBytes: within(reader.u53(), 1, REGION_BYTES_MAX, "region bytes"),
      chunkBytes: chunkBytes(reader.u32()),
      host: reader.text(TEXT_BYTES_MAX),
      version: reader.text(TEXT_BYTES_MAX),
    }),
  },
  phase: {
    number: 0x06,
    encode: (frame, writer) => {
      writer.u8(SESSION_STATES.indexOf(frame.state)).text(frame.reason, TEXT_BYTES_MAX);
    },
    decode: (reader) => ({
      kind: "phase",
      state: oneOf(SESSION_STATES, reader.u8(), "state"),
      reason: reader.text(TEXT_BYTES_MAX),
    }),
  },
  progress: {
    number: 0x07,
    encode: (frame, writer) => {
      for (const field of PROGRESS_FIELDS) writer.f64(frame.progress[field]);
    },
    decode: (reader) => {
      const progress: Partial<Record<keyof Progress, number>> = {};
      for (const field of PROGRESS_FIELDS) {
        progress[field] = within(reader.f64(), 0, Number.MAX_SAFE_INTEGER, field);
      }
      // Every field of Progress is in PROGRESS_FIELDS, which the loop went through.
      return { kind: "progress", progress: progress as Progress };
    },
  },
  indexSegment: {
    number: 0x08,
    encode: (frame, writer) => writer.u32(frame.epoch).u32(frame.segment).bytes(frame.hashes),
    decode: (reader) => ({
      kind: "indexSegment",
      epoch: reader.u32(),
      segment: reader.u32(),
      hashes: records(reader, HASH_BYTES, INDEX_SEGMENT_CHUNKS),
    }),
  },
  indexDelta: {
    number: 0x09,
    encode: (frame, writer) => writer.bytes(frame.entries),
    decode: (reader) => ({
      kind: "indexDelta",
      entries: records(reader, INDEX_DELTA_ENTRY_BYTES, INDEX_DELTA_ENTRIES_MAX),
    }),
  },
  indexRoot: {
    number: 0x0a,
    encode: (frame, writer) => writer.u32(frame.epoch).bytes(frame.root),
    decode: (reader) => ({
      kind: "indexRoot",
      epoch: reader.u32(),
      root: reader.bytes(HASH_BYTES),
    }),
  },
  ping: {
    number: 0x0b,
    encode: (frame, writer) => writer.u32(frame.nonce),
    decode: (reader) => ({ kind: "ping", nonce: reader.u32() }),
  },
  bye: {
    number: 0x0c,
    encode: () => undefined,
    decode: () => ({ kind: "bye" }),
  },
  revoke: {
    number: 0x0d,
    encode: (frame, writer) => writer.text(frame.reason, TEXT_BYTES_MAX),
    decode: (reader) => ({ kind: "revoke", reason: reader.text(TEXT_BYTES_MAX) }),
  },
  signal: {
    number: 0x0e,
    encode: (frame, writer) => writer.blob(frame.payload),
    decode: (reader) => ({ kind: "signal", payload: reader.blob(SIGNAL_BYTES_MAX) }),
  },
  renewPairing: {
    number: 0x0f,
    encode: (frame, writer) => writer.u32(frame.pairing),
    decode: (reader) => ({ kind: "renewPairing", pairing: reader.u32() }),
  },
  progressMore: {
    number: 0x10,
    encode: ({ more }, writer) => {
      for (const field of PROGRESS_MORE_FIELDS) writer.f64(more[field]);
      writer.u8(more.path === undefined ? 0 : PATH_KINDS.indexOf(more.path) + 1);
      writer.text(more.fingerprint, TEXT_BYTES_MAX);
    },
    decode: (reader) => {
      const numbers: Partial<Record<keyof ProgressMore, number>> = {};
      for (const field of PROGRESS_MORE_FIELDS) {
        numbers[field] = within(reader.f64(), 0, Number.MAX_SAFE_INTEGER, field);
      }
      const path = reader.u8();
      const more = {
        ...numbers,
        path: path === 0 ? undefined : oneOf(PATH_KINDS, path - 1, "path"),
        fingerprint: reader.text(TEXT_BYTES_MAX),
      };
      // Every number of ProgressMore is in PROGRESS_MORE_FIELDS, which the loop went through.
      return { kind: "progressMore", more: more as ProgressMore };
    },
  },
  peerSignal: {
    number: 0x48,
    encode: (frame, writer) => writer.blob(frame.payload),
    decode: (reader) => ({ kind: "peerSignal", payload: reader.blob(SIGNAL_BYTES_MAX) }),
  },
  challenge: {
    number: 0x40,
    encode: (frame, writer) => writer.bytes(frame.challenge),
    decode: (reader) => ({ kind: "challenge", challenge: reader.bytes(CHALLENGE_BYTES) }),
  },
  welcome: {
    number: 0x41,
    encode: (frame, writer) => {
      writer.u16(frame.major).u16(frame.minor).u32(frame.features).bytes(frame.streamSecret);
      writer.u8(ROLES.indexOf(frame.owner)).u32(frame.ownerEpoch);
      writer.u8(SESSION_STATES.indexOf(frame.state));
    },
    decode: (reader) => ({
      kind: "welcome",
      major: reader.u16(),
      minor: reader.u16(),
      features: reader.u32(),
      streamSecret: reader.bytes(STREAM_SECRET_BYTES),
      owner: oneOf(ROLES, reader.u8(), "owner"),
      ownerEpoch: reader.u32(),
      state: oneOf(SESSION_STATES, reader.u8(), "state"),
    }),
  },
  peer: {
    number: 0x42,
    encode: (frame, writer) => writer.u8(frame.present ? 1 : 0).u32(frame.pairing),
    decode: (reader) => ({ kind: "peer", present: flag(reader), pairing: reader.u32() }),
  },
  owner: {
    number: 0x43,
    encode: (frame, writer) => {
      writer.u8(ROLES.indexOf(frame.owner)).u32(frame.ownerEpoch);
      writer.u8(SESSION_STATES.indexOf(frame.state)).text(frame.reason, TEXT_BYTES_MAX);
    },
    decode: (reader) => ({
      kind: "owner",
      owner: oneOf(ROLES, reader.u8(), "owner"),
      ownerEpoch: reader.u32(),
      state: oneOf(SESSION_STATES, reader.u8(), "state"),
      reason: reader.text(TEXT_BYTES_MAX),
    }),
  },
  command: {
    number: 0x44,
    encode: (frame, writer) => {
      writer.u8(COMMANDS.indexOf(frame.command)).text(frame.reason, TEXT_BYTES_MAX);
    },
    decode: (reader) => ({
      kind: "command",
      command: oneOf(COMMANDS, reader.u8(), "command"),
      reason: reader.text(TEXT_BYTES_MAX),
    }),
  },
  pong: {
    number: 0x45,
    encode: (frame, writer) => writer.u32(frame.nonce),
    decode: (reader) => ({ kind: "pong", nonce: reader.u32() }),
  },
  goAway: {
    number: 0x46,
    encode: (frame, writer) => writer.u32(frame.reconnectInMs).u32(frame.tryForMs),
    decode: (reader) => ({
      kind: "goAway",
      reconnectInMs: reader.u32(),
      tryForMs: reader.u32(),
    }),
  },
  error: {
    number: 0x47,
    encode: (frame, writer) => {
      writer.u16(ProtocolErrorNumber[frame.code]).u8(frame.retryable ? 1 : 0);
      writer.text(frame.message, TEXT_BYTES_MAX);
    },
    decode: (reader) => ({
      kind: "error",
      code: protocolErrorCode(reader.u16()),
      retryable: flag(reader),
      message: reader.text(TEXT_BYTES_MAX),
    }),
  },
  discovery: {
    number: 0x49,
    encode: (frame, writer) => {
      writer.bytes(frame.token).u16(frame.ports[0]).u16(frame.ports[1]);
    },
    decode: (reader) => ({
      kind: "discovery",
      token: reader.bytes(DISCOVERY_TOKEN_BYTES),
      ports: [within(reader.u16(), 1, 0xffff, "port"), within(reader.u16(), 1, 0xffff, "port")],
    }),
  },
  throttled: {
    number: 0x4a,
    encode: (frame, writer) => {
      writer.text(frame.limitName, TEXT_BYTES_MAX).u53(frame.bytesPerS).u32(frame.retryInMs);
    },
    decode: (reader) => ({
      kind: "throttled",
      limitName: reader.text(TEXT_BYTES_MAX),
      bytesPerS: reader.u53(),
      retryInMs: reader.u32(),
    }),
  },
  terms: {
    number: 0x4b,
    encode: ({ terms: { mode, downtimeTargetMs, maxRounds } }, writer) => {
      writer.u8(mode === undefined ? 0 : TERM_MODES.indexOf(mode) + 1);
      writer.u32(downtimeTargetMs).u32(maxRounds);
    },
    decode: (reader) => {
      const mode = reader.u8();
      return {
        kind: "terms",
        terms: {
          mode: mode === 0 ? undefined : oneOf(TERM_MODES, mode - 1, "mode"),
          downtimeTargetMs: reader.u32(),
          maxRounds: reader.u32(),
        },
      };
    },
  },
};

const kindByNumber = new Map<number, Frame["kind"]>();
for (const [kind, codec] of Object.entries(codecs)) {
  kindByNumber.set(codec.number, kind as Frame["kind"]);
}

/** Header and fields in one buffer. */
export function encodeFrame(frame: Frame): Uint8Array<ArrayBuffer> {
  const writer = new ByteWriter();
  // The table is keyed by kind, so the codec is the one of this frame; the type system cannot see it.
  const codec = codecs[frame.kind] as Codec<Frame>;
  writer.u32(0).u8(codec.number);
  codec.encode(frame, writer);
  writer.setU32(0, writer.length - FRAME_HEADER_BYTES);
  return writer.finish();
}

/**
 * @param number The kind's number from the header.
 * @param payload What followed the header. The frame keeps views of it.
 * @returns `undefined` for a kind that this version does not know: it is to be ignored.
 * @throws ProtocolError `FRAME_MALFORMED`; `VERSION_UNSUPPORTED` for a `hello` of another major version
 */
export function decodeFrame(number: number, payload: Uint8Array): Frame | undefined {
  const kind = kindByNumber.get(number);
  if (kind === undefined) return undefined;
  const reader = new ByteReader(payload);
  const frame = codecs[kind].decode(reader);
  reader.end();
  return frame;
}

/** Whether the relay may receive this frame. */
export function isFromPeer(frame: Frame): frame is PeerToRelayFrame {
  return codecs[frame.kind].number < 0x40;
}

/** What a peer signs when it is challenged. */
export function proofMessage(challenge: Uint8Array, sessionId: Uint8Array, role: Role): Uint8Array {
  const writer = new ByteWriter();
  writer.text("memferry proof 1", TEXT_BYTES_MAX);
  return writer.bytes(challenge).bytes(sessionId).u8(ROLES.indexOf(role)).finish();
}

function supportedMajor(major: number): number {
  if (major === PROTOCOL_MAJOR) return major;
  throw new ProtocolError(
    "VERSION_UNSUPPORTED",
    `this relay speaks version ${PROTOCOL_MAJOR} of the relay protocol and the peer ${major}: install the same major version on both`,
  );
}

function oneOf<T>(values: readonly T[], index: number, what: string): T {
  const value = values[index];
  if (value === undefined) throw malformed(`${what} ${index} is unknown`);
  return value;
}

function within(value: number, least: number, most: number, what: string): number {
  if (!(value >= least && value <= most)) throw malformed(`${what} ${value} is out of range`);
  return value;
}

function flag(reader: ByteReader): boolean {
  return within(reader.u8(), 0, 1, "flag") === 1;
}

function chunkBytes(value: number): number {
  within(value, CHUNK_BYTES_MIN, CHUNK_BYTES_MAX, "chunk bytes");
  if ((value & (value - 1)) !== 0) throw malformed(`chunk bytes ${value} is no power of two`);
  return value;
}

function records(reader: ByteReader, recordBytes: number, countMax: number): Uint8Array {
  const bytes = reader.rest();
  if (
    bytes.length === 0 ||
    bytes.length % recordBytes !== 0 ||
    bytes.length > recordBytes * countMax
  ) {
    throw malformed(
      `${bytes.length} bytes are no ${recordBytes}-byte records, at most ${countMax}`,
    );
  }
  return bytes;
}
