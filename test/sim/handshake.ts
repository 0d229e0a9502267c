/**
 * Keys of a channel from the ticket's secret and two nonces: what HPKE gives, without its thread pool.
 *
 * @module
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { ByteWriter } from "../../relay/protocol/bytes.ts";
import type { MessageReader } from "../../relay/protocol/message-stream.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import { MigrationError } from "../../peer/errors.ts";
import { OWN_FEATURES, type ChannelKeys, type Handshake } from "../../peer/migration/handshake.ts";
import type { Random } from "./random.ts";

const NONCE_BYTES = 16;
const MAC_BYTES = 32;

export function pskHandshake(random: Random): Handshake {
  return {
    async leecher(stream, reader, { secret, dataStreams }, onOffered) {
      const offer = Uint8Array.of(dataStreams, ...random.bytes(NONCE_BYTES));
      const offering = say(stream, 1, offer);
      onOffered?.();
      await offering;
      const answer = await hear(reader, 2, NONCE_BYTES + MAC_BYTES);
      const transcript = Buffer.concat([offer, answer.subarray(0, NONCE_BYTES)]);
      check(secret, "seeder", transcript, answer.subarray(NONCE_BYTES));
      await say(stream, 3, mac(secret, "leecher", transcript));
      return keysOf(secret, transcript, dataStreams);
    },
    async seeder(stream, reader, { secret }, onKeys) {
      const offer = await hear(reader, 1, 1 + NONCE_BYTES);
      const nonce = random.bytes(NONCE_BYTES);
      const transcript = Buffer.concat([offer, nonce]);
      await say(stream, 2, Buffer.concat([nonce, mac(secret, "seeder", transcript)]));
      const keys = keysOf(secret, transcript, offer[0] ?? 1);
      onKeys?.(keys);
      check(secret, "leecher", transcript, await hear(reader, 3, MAC_BYTES));
      return keys;
    },
  };
}

function mac(secret: Uint8Array, label: string, transcript: Uint8Array): Uint8Array {
  return createHmac("sha256", secret).update(label).update(transcript).digest();
}

function check(secret: Uint8Array, label: string, transcript: Uint8Array, given: Uint8Array): void {
  if (timingSafeEqual(mac(secret, label, transcript), given)) return;
  throw new MigrationError("CHANNEL_REFUSED", "the other peer does not hold the secret");
}

function keysOf(secret: Uint8Array, transcript: Uint8Array, dataStreams: number): ChannelKeys {
  return {
    seederToLeecher: mac(secret, "to leecher", transcript),
    leecherToSeeder: mac(secret, "to seeder", transcript),
    fingerprint: "simulated",
    dataStreams,
    features: OWN_FEATURES,
  };
}

function say(stream: ByteStream, kind: number, payload: Uint8Array): Promise<void> {
  return stream.write(new ByteWriter().u32(payload.length).u8(kind).bytes(payload).finish());
}

async function hear(reader: MessageReader, kind: number, length: number): Promise<Uint8Array> {
  const message = await reader.next(256);
  if (message === null) throw new MigrationError("PEER_LOST", "the other peer left");
  if (message.kind === kind && message.payload.length === length) return message.payload;
  throw new MigrationError("CHANNEL_REFUSED", "another message was due");
}
