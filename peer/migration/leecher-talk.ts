/**
 * What a leecher says and hears, as far as it is always the same.
 *
 * @module
 */
import { MigrationError } from "../errors.ts";
import type { Channel } from "./channel.ts";
import type { ChunkReceiver } from "./chunk-receiver.ts";
import type { Message, Mode } from "./messages.ts";

/** Hands each control message over, until one of them was the last. */
export async function receiveEach(
  channel: Channel,
  { signal, over }: { readonly signal: AbortSignal; readonly over: AbortSignal },
  handle: (message: Message) => Promise<void>,
): Promise<void> {
  for (;;) {
    const message = await channel.control.receive();
    signal.throwIfAborted();
    if (message === null) throw new MigrationError("PEER_LOST", "the source left");
    await handle(message);
    if (over.aborted) return;
  }
}

/** Says what is here and what is wanted. On a first channel that is nothing and everything. */
export async function sayWhatIsHere(
  { control }: Channel,
  receiver: ChunkReceiver,
  { mode, mergedEpoch }: { readonly mode: Mode; readonly mergedEpoch: number },
): Promise<void> {
  await control.send({ kind: "accept", mode });
  await control.send({ kind: "track" });
  for (const page of receiver.readyPages()) await control.send({ kind: "have", ...page });
  for (const page of receiver.knowsPages()) await control.send(page);
  await control.send({ kind: "want", epoch: mergedEpoch });
}
