/**
 * What a seeder does on a channel before the leecher has asked for anything: it says what it offers, and the first time
 * it begins what every leecher asks for first, and sends one chunk. That is on its way half a round trip or a whole one
 * earlier; who does not want it has lost little.
 *
 * @module
 */
import type { ChannelStreams } from "./channel.ts";
import { ChunkSender, type ChunkSenderOptions } from "./chunk-sender.ts";
import type { DirtyHistory } from "./dirty-history.ts";
import { KnownChunks } from "./known-chunks.ts";
import type { OfferMessage } from "./messages.ts";
import type { SeederJournal } from "./seeder-journal.ts";
import type { SealedStream } from "./sealed-stream.ts";
import { offerOf, type SeederOptions } from "./seeder-options.ts";

/** What one channel begins with. */
export interface Begun {
  /** What its leecher said that it has. */
  readonly known: KnownChunks;
  readonly sender: ChunkSender;
}

export interface SeederStartOptions extends Pick<
  ChunkSenderOptions,
  "manifest" | "schedule" | "reading" | "onSent" | "held"
> {
  readonly seeder: Pick<SeederOptions, "region" | "hashKey" | "dirty">;
  readonly history: DirtyHistory;
  readonly journal: SeederJournal;
}

export class SeederStart {
  readonly #options: SeederStartOptions;
  readonly #begun = new WeakMap<SealedStream, Begun>();
  #beginning: Promise<void> | undefined;

  constructor(options: SeederStartOptions) {
    this.#options = options;
  }

  offer(): OfferMessage {
    return offerOf(this.#options.seeder, this.#options.journal.folded);
  }

  /** Once per channel; asked again it is the same. */
  begin(streams: ChannelStreams): Begun {
    const already = this.#begun.get(streams.urgent);
    if (already !== undefined) return already;
    const { seeder, history, ...rest } = this.#options;
    const { region } = seeder;
    const known = new KnownChunks(region.chunkCount);
    const sender = new ChunkSender(streams, {
      ...rest,
      region,
      epoch: () => history.epoch,
      takeKnown: (index, hash) => known.take(index, hash),
    });
    // Lost: the reader sees it.
    streams.control.send(this.offer()).catch(() => {});
    if (history.epoch === 0) {
      this.#beginAhead(streams, sender).catch(() => {
        // `track` meets the same error, if the leecher takes the offer.
      });
    }
    const begun = { known, sender };
    this.#begun.set(streams.urgent, begun);
    return begun;
  }

  /** Begins dirty tracking, once. @throws MigrationError `JOURNAL_FAILED`, or what tracking fails with */
  async track(): Promise<void> {
    if (this.#options.history.epoch > 0) return;
    this.#beginning ??= this.#beginTracking().finally(() => {
      this.#beginning = undefined;
    });
    await this.#beginning;
  }

  async #beginAhead({ control }: ChannelStreams, sender: ChunkSender): Promise<void> {
    await this.track();
    const told = control.send({ kind: "tracking", epoch: this.#options.history.epoch });
    if (this.#options.held?.() !== true) sender.sendAhead(0);
    await told;
  }

  async #beginTracking(): Promise<void> {
    const { seeder, journal, history } = this.#options;
    await seeder.dirty.begin();
    await journal.reserveEpochs(journal.folded + 1);
    history.begin(journal.folded + 1);
  }
}
