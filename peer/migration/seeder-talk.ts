/**
 * What a source says on its control stream, in so many messages.
 *
 * @module
 */
import type { ChunkSet } from "./bitmap.ts";
import type { Channel } from "./channel.ts";

/** The chunks that were written in an epoch, and that a round ended with it. */
export async function sayDirty(
  { control }: Channel,
  { epoch, dirty }: { readonly epoch: number; readonly dirty: ChunkSet },
  round: { readonly round: number; readonly dirtyBytesPerS: number } | undefined,
): Promise<void> {
  for (const page of dirty.pages()) await control.send({ kind: "dirty", epoch, ...page });
  if (round === undefined) return;
  await control.send({ kind: "round", epoch, dirtyChunks: dirty.size, ...round });
}
