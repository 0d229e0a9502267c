/**
 * What a relay could try on two peers that trust it with nothing.
 *
 * @module
 */
import { leecherHandshake, seederHandshake } from "../../peer/migration/handshake.ts";
import { sleep } from "../../peer/sleep.ts";
import { ByteWriter } from "../../relay/protocol/bytes.ts";
import { decodeFrame, encodeFrame, FRAME_HEADER_BYTES } from "../../relay/protocol/frame.ts";
import { MessageReader } from "../../relay/protocol/message-stream.ts";
import { RELAY_CONTROL, type Attack, type Change, type Place } from "./hostile-relay.ts";
import { pipe } from "./wire.ts";

const OFFER = 1;
const ANSWER = 2;
const CONFIRM = 3;
const RECORD = 0x80;
const CONTROL_STREAM = 0;
const FIRST_DATA_STREAM = 2;
const PUBLIC_KEY_AT = FRAME_HEADER_BYTES + 2 + 2 + 4 + 1 + 16;

/** What the peer that was lied to says of it. */
export const REASONS = {
  CHANNEL_REFUSED: /does not hold this session's secret/,
  CHANNEL_CORRUPT: /a record from the other peer does not open/,
  PEER_LOST: /ended inside a message|the (source|other peer) left|says no more|relay does not join/,
} as const;

export interface HostileCase {
  readonly name: string;
  /** Undefined: nothing but time is lost. */
  readonly reason: keyof typeof REASONS | undefined;
  /** For one migration. */
  make(sessionId: Uint8Array): Attack;
}

const isRecord = (message: Uint8Array): boolean => message[4] === RECORD;
const onData = ({ role, streamIndex }: Place): boolean =>
  role === "leecher" && streamIndex >= FIRST_DATA_STREAM;
const onControl = ({ streamIndex }: Place): boolean => streamIndex === CONTROL_STREAM;
/** Past the source's offer, which has a deadline of its own. */
const onLaterControl = (place: Place): boolean => onControl(place) && place.count > 2;

/** Does something to one record in each channel, not always the same. */
function records(
  name: string,
  where: (place: Place) => boolean,
  reason: HostileCase["reason"],
  change: Change,
): HostileCase {
  const make = (): Attack => {
    const struck = new Set<number>();
    return {
      toPeer: (message, place, relay) => {
        const { channel } = place;
        if (!isRecord(message) || !where(place) || struck.has(channel)) return [message];
        if (relay.random.below(3) > 0 || !relay.strike()) return [message];
        struck.add(channel);
        return change(message, place, relay);
      },
    };
  };
  return { name, reason, make };
}

function flipped(message: Uint8Array, at: number, flip: number): Uint8Array {
  const changed = message.slice();
  changed[at] = (changed[at] ?? 0) ^ flip;
  return changed;
}

/** A handshake with each peer, as if it were the other one, with all but the ticket's secret. */
function inTheMiddle(sessionId: Uint8Array): Attack {
  let struck = false;
  return {
    fromPeer: async (message, place, relay) => {
      const { role, streamIndex } = place;
      if (streamIndex !== CONTROL_STREAM) return [message];
      const context = { sessionId, secret: relay.random.bytes(32), features: 0 };
      if (role === "leecher" && message[4] === OFFER && relay.strike()) {
        struck = true;
        const [asSeeder, asLeecher] = [pipe(), pipe()];
        const leecher = { ...context, dataStreams: 3 };
        void seederHandshake(asSeeder.a, new MessageReader(asSeeder.a), context).catch(ignore);
        void leecherHandshake(asLeecher.a, new MessageReader(asLeecher.a), leecher).catch(ignore);
        await asSeeder.b.write(message);
        relay.inject(place, (await asSeeder.b.read()) ?? new Uint8Array());
        return [(await asLeecher.b.read()) ?? new Uint8Array()];
      }
      if (role === "seeder" && message[4] === ANSWER && struck) {
        struck = false;
        const confirmation = new ByteWriter().u32(32).u8(CONFIRM).bytes(relay.random.bytes(32));
        relay.inject(place, confirmation.finish());
        return [];
      }
      return [message];
    },
  };
}

/** Puts its own key into the leecher's offer and passes all else. */
function ownKey(): Attack {
  return {
    fromPeer: (message, { role, streamIndex }, relay) => {
      const isOffer = role === "leecher" && streamIndex === CONTROL_STREAM && message[4] === OFFER;
      if (!isOffer || !relay.strike()) return [message];
      const changed = message.slice();
      changed.set(relay.random.bytes(32), PUBLIC_KEY_AT);
      return [changed];
    },
  };
}

function oldAnswer(): Attack {
  let old: Uint8Array | undefined;
  return {
    fromPeer: (message, { role, streamIndex }, relay) => {
      const isAnswer = role === "seeder" && streamIndex === CONTROL_STREAM && message[4] === ANSWER;
      if (!isAnswer || !relay.strike()) return [message];
      const given = old ?? flipped(message, message.length - 1, 1);
      old ??= message.slice();
      return [given.slice()];
    },
  };
}

/** The other side's records come back to it. */
function mirrored(): Attack {
  const struck = new Set<string>();
  return {
    fromPeer: (message, place, relay) => {
      const key = `${place.role} ${place.channel}`;
      if (!isRecord(message) || !onControl(place) || struck.has(key)) return [message];
      if (relay.random.below(4) > 0 || !relay.strike()) return [message];
      struck.add(key);
      relay.inject(place, message.slice());
      return [message];
    },
  };
}

/** A record that opened in one channel is given again in the next, in its place. */
function earlierChannel(): Attack {
  const first = new Map<string, Uint8Array>();
  return {
    toPeer: (message, place, relay) => {
      const { role, channel, streamIndex, count } = place;
      if (!isRecord(message) || !onControl(place)) return [message];
      const key = `${role} ${streamIndex} ${count}`;
      const old = first.get(key);
      first.set(key, message.slice());
      if (old !== undefined && channel > 0) return relay.strike() ? [old] : [message];
      // There must be another channel.
      return channel === 0 && count === 6 && relay.strike() ? [] : [message];
    },
  };
}

function swapped(): Attack {
  const held = new Map<string, Uint8Array | undefined>();
  return {
    toPeer: (message, place, relay) => {
      if (!isRecord(message) || !onLaterControl(place)) return [message];
      const key = `${place.role} ${place.channel}`;
      const before = held.get(key);
      if (before !== undefined) {
        held.set(key, undefined);
        return [message, before];
      }
      if (held.has(key) || !relay.strike()) return [message];
      held.set(key, message.slice());
      return [];
    },
  };
}

/** All large records on data streams, from one on: nothing but idle streams tell of it. */
function withheld(): Attack {
  const struck = new Set<number>();
  return {
    toPeer: (message, place, relay) => {
      if (!isRecord(message) || !onData(place) || message.length < 4_096) return [message];
      if (struck.has(place.channel)) return [];
      if (!relay.strike()) return [message];
      struck.add(place.channel);
      return [];
    },
  };
}

function otherPairing(): Attack {
  return {
    toPeer: (message, place, relay) => {
      if (place.streamIndex !== RELAY_CONTROL) return [message];
      const frame = decodeFrame(message[4] ?? 0, message.subarray(FRAME_HEADER_BYTES));
      if (frame?.kind !== "peer" || !frame.present || !relay.strike()) return [message];
      const shift = place.role === "seeder" ? 1_000 : 2_000;
      // It does not last: that peers which are told nonsense cannot meet needs no test.
      setTimeout(() => {
        relay.inject(place, encodeFrame({ ...frame, present: false }));
        relay.inject(place, message.slice());
      }, 400);
      return [encodeFrame({ ...frame, pairing: frame.pairing + shift })];
    },
  };
}

function wrongIndex(): Attack {
  const struck = new Map<number, boolean>();
  return {
    joinAs: ({ role, channel, streamIndex }, relay) => {
      if (role !== "seeder" || streamIndex < 2 || streamIndex > 3) return streamIndex;
      const isStruck = struck.get(channel) ?? relay.strike();
      struck.set(channel, isStruck);
      if (!isStruck) return streamIndex;
      return streamIndex === 2 ? 3 : 2;
    },
  };
}

function slow(): Attack {
  return {
    toPeer: async (message, { streamIndex, count }, relay) => {
      if (streamIndex === RELAY_CONTROL) return [message];
      const isLong = count === 0 && relay.strike();
      await sleep(isLong ? 1_000 + relay.random.below(1_000) : relay.random.below(20));
      return [message];
    },
  };
}

export const CASES: readonly HostileCase[] = [
  { name: "does a handshake with each peer", reason: "CHANNEL_REFUSED", make: inTheMiddle },
  { name: "swaps the key in the handshake", reason: "CHANNEL_REFUSED", make: ownKey },
  { name: "gives the answer of another handshake", reason: "CHANNEL_REFUSED", make: oldAnswer },
  records("repeats a data record", onData, "CHANNEL_CORRUPT", twice),
  records("repeats a control record", onControl, "CHANNEL_CORRUPT", twice),
  { name: "mirrors a record", reason: "CHANNEL_CORRUPT", make: mirrored },
  { name: "gives records of an earlier channel", reason: "CHANNEL_CORRUPT", make: earlierChannel },
  { name: "swaps two records", reason: "CHANNEL_CORRUPT", make: swapped },
  records("leaves a control record out", onLaterControl, "CHANNEL_CORRUPT", () => []),
  records("leaves a data record out", onData, "CHANNEL_CORRUPT", () => []),
  { name: "leaves all chunks out", reason: "CHANNEL_CORRUPT", make: withheld },
  records("cuts a data record short", onData, "PEER_LOST", cut),
  records("cuts a control record short", onControl, "PEER_LOST", cut),
  records("ends a data stream early", onData, "PEER_LOST", ended),
  records("ends a control stream early", onControl, "PEER_LOST", ended),
  records("changes a byte of a data record", onData, "CHANNEL_CORRUPT", changed),
  records("changes a byte of a control record", onControl, "CHANNEL_CORRUPT", changed),
  { name: "joins streams of different indexes", reason: "CHANNEL_CORRUPT", make: wrongIndex },
  { name: "tells each peer another pairing", reason: "PEER_LOST", make: otherPairing },
  { name: "holds everything back", reason: undefined, make: slow },
];

function twice(message: Uint8Array): Uint8Array[] {
  return [message, message.slice()];
}

function cut(...[message, place, relay]: Parameters<Change>): Uint8Array[] {
  relay.endEarly(place);
  return [message.subarray(0, 1 + relay.random.below(message.length - 1))];
}

function ended(...[, place, relay]: Parameters<Change>): Uint8Array[] {
  relay.endEarly(place);
  return [];
}

/** Not in the length: a record that seems longer is one that never comes, and holding back needs no lie. */
function changed(...[message, , relay]: Parameters<Change>): Uint8Array[] {
  const at = FRAME_HEADER_BYTES - 1 + relay.random.below(message.length - FRAME_HEADER_BYTES + 1);
  return [flipped(message, at, 1 + relay.random.below(255))];
}

function ignore(): void {}
