/**
 * The destination's side of one migration of the soak.
 *
 * @module
 */
import { rm } from "node:fs/promises";
import path from "node:path";

import { type FuseMount, loadNative, type NativeRegion } from "../../native/index.ts";
import type { SessionDirectory } from "../../peer/journal/session-directory.ts";
import type { Destination } from "../../peer/migration/destination.ts";
import { Leecher } from "../../peer/migration/leecher.ts";
import type { OfferMessage } from "../../peer/migration/messages.ts";
import { RegionGroup } from "../../peer/region/group.ts";
import { Attempt, digestOf, errorText, type Outcome } from "./soak-attempt.ts";

export class LeecherAttempt extends Attempt {
  #leecher: Leecher | undefined;
  #cancelled = false;
  #region: NativeRegion | undefined;
  #mount: FuseMount | undefined;
  #read: Promise<string> | undefined;

  async cancel(): Promise<void> {
    this.#cancelled = true;
    await this.#leecher?.cancel("cancelled by the soak").catch(() => undefined);
  }

  async run(): Promise<Outcome> {
    const { task, ticket } = this;
    const addon = loadNative();
    const directory = await this.directory();
    this.#mount = this.mount();
    let done = false;
    let error = "";
    let downtimeMs = 0;
    let refetchedChunks = 0;
    let control;
    try {
      control = await this.join({
        onOwnership: (ownership) => this.#leecher?.ownershipChanged(ownership),
        onCommand: (command) => {
          if (command === "finalize") this.#leecher?.finalize();
        },
      });
      this.#leecher = new Leecher({
        session: control,
        sessionId: ticket.sessionId,
        secret: ticket.secret,
        keyedHash: (hashKey) => (data) => addon.blake3(data, hashKey),
        mode: task.mode,
        finalize: { kind: "auto" },
        downtimeBudgetMs: 300,
        dataStreams: 4,
        journal: await directory.leecherJournal(),
        prepare: (offer) => Promise.resolve(this.#prepare(offer, directory)),
        onResume: () => {
          this.#startReader();
          return Promise.resolve();
        },
        onEvent: this.onEvent,
      });
      const running = this.#leecher.run();
      if (this.#cancelled) await this.cancel();
      ({ downtimeMs, refetchedChunks } = await running);
      done = true;
    } catch (failure) {
      error = errorText(failure);
    }
    const committed = this.#leecher?.committed ?? false;
    // What a program read through the export while chunks were still missing.
    const read = done ? await this.#read : undefined;
    await this.#mount?.unmount();
    await this.#region?.close();
    await control?.close();
    const digest = done ? await digestOf(task.file) : "";
    await rm(task.file, { force: true });
    await directory.remove();
    return {
      done,
      committed,
      digest,
      expected: read ?? "",
      error,
      writes: 0,
      downtimeMs,
      refetchedChunks,
      events: this.events,
    };
  }

  #prepare(offer: OfferMessage, directory: SessionDirectory): Destination {
    const [offered] = offer.regions;
    if (offered === undefined) throw new Error("nothing is offered");
    const destination: { it?: Destination } = {};
    const region = loadNative().openRegion({
      store: { kind: "file", path: this.task.file, create: true, reserve: true },
      bytes: offered.bytes,
      chunkBytes: offer.chunkBytes,
      hashKey: offer.hashKey,
      present: "none",
      gate: "closed",
      state: { path: directory.statePath(offered.name), mode: "create" },
      onFault: (indexes) => destination.it?.onFault?.(indexes),
    });
    this.#region = region;
    this.#mount?.add(offered.name, region);
    destination.it = {
      region: new RegionGroup([{ name: offered.name, region }]),
      exported: this.#mount !== undefined,
      onFault: undefined,
    };
    return destination.it;
  }

  #startReader(): void {
    if (this.#mount === undefined) return;
    this.#read = digestOf(path.join(this.#mount.directory, "soak"));
    // Told with the outcome; an export that goes away meanwhile is no crash of this process.
    this.#read.catch(() => undefined);
  }
}
