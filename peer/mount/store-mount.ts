/**
 * A region whose bytes stay in a store: programs use it here, through the same exports as any other.
 *
 * - *managed*: what is read is kept here; the rest is pulled in the background; what is written is pushed in the
 *   background, and at once when a program asks for durability.
 * - *direct*: nothing is kept. Each read goes to the store, and each write is there before it is answered.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import { loadNative, type NativeRegion } from "../../native/index.ts";
import { AlignedStore } from "../store/aligned-store.ts";
import type { Store } from "../store/store.ts";
import { openCache, type CachePlace } from "./mount-cache.ts";
import { Puller } from "./puller.ts";
import { Pusher } from "./pusher.ts";
import { Residents } from "./residents.ts";
import { StoreHealth, type StoreHealthState } from "./store-health.ts";

const HELD_BYTES_MAX = 256 << 20;
const DIRECT_RESIDENT_BYTES = 8 << 20;
const HASH_KEY_BYTES = 32;
const REGION_THREADS = 4;

export interface StoreMountOptions {
  readonly store: Store;
  /** A power of two from 4 KiB to 4 MiB. */
  readonly chunkBytes: number;
  readonly mode: "managed" | "direct";
  /** `through`: a write is at the store before it is answered. Always so for `direct`. */
  readonly writes: "back" | "through";
  readonly cache: CachePlace;
  /** Of what was pulled and not written, this much is kept; default: all. */
  readonly cacheBytes?: number;
  /** Background reads at once; `auto`: as many as help; 0: only what is waited for. */
  readonly pull: number | "auto";
  /** The order of the background. */
  readonly order: Iterable<number>;
  /** What is written is at the store after this, milliseconds. */
  readonly pushIntervalMs: number;
  /** Programs that wait get an error after this; `Infinity`: they wait. */
  readonly failAfterMs: number;
  readonly onHealth?: (state: StoreHealthState) => void;
  readonly onFault?: (chunk: number) => void;
  readonly onPushFailure?: (error: unknown) => void;
}

export interface StoreMountProgress {
  readonly bytesTotal: number;
  readonly bytesPresent: number;
  readonly bytesPulled: number;
  readonly bytesPushed: number;
  /** Written here and not at the store yet. */
  readonly bytesHeld: number;
  readonly oldestHeldMs: number;
  readonly faults: number;
  readonly pullWindow: number;
  readonly pulled: boolean;
  readonly store: StoreHealthState;
}

export class StoreMount implements AsyncDisposable {
  readonly region: NativeRegion;
  readonly #store: Store;
  readonly #puller: Puller;
  readonly #pusher: Pusher;
  readonly #residents: Residents | undefined;
  readonly #health: StoreHealth;
  #syncing = false;
  #syncAsked = false;
  #closed = false;

  private constructor(region: NativeRegion, options: StoreMountOptions, health: StoreHealth) {
    const { store, mode } = options;
    this.region = region;
    this.#store = store;
    this.#health = health;
    const aligned = new AlignedStore(store);
    const kept = mode === "direct" ? DIRECT_RESIDENT_BYTES : options.cacheBytes;
    this.#residents = kept === undefined ? undefined : new Residents(region, kept);
    this.#puller = new Puller({
      region,
      store: aligned,
      traits: store.traits,
      health,
      // What would be taken away again is not worth the way.
      order: mode === "direct" || kept !== undefined ? [] : options.order,
      pull: mode === "direct" ? 0 : options.pull,
      ...(options.onFault === undefined ? {} : { onFault: options.onFault }),
      onArrival: (chunks) => this.#residents?.arrived(chunks),
    });
    this.#pusher = new Pusher({
      region,
      store: aligned,
      traits: store.traits,
      health,
      intervalMs: options.pushIntervalMs,
      heldBytesMax: HELD_BYTES_MAX,
      onFailure: (error) => options.onPushFailure?.(error),
    });
  }

  /**
   * What a mount that was killed had written and not pushed is pushed first.
   *
   * @throws StoreError, MigrationError `STORE_FAILED`: the cache cannot be used
   */
  static async open(options: StoreMountOptions): Promise<StoreMount> {
    const { store, mode, writes, chunkBytes } = options;
    const health = new StoreHealth(options.failAfterMs, (state) => options.onHealth?.(state));
    // Called later at the earliest, when there is a mount.
    let mount = undefined as StoreMount | undefined;
    const region = await openCache(options.cache, store, chunkBytes, (given) =>
      loadNative().openRegion({
        ...given,
        hashKey: randomBytes(HASH_KEY_BYTES),
        present: "none",
        gate: "open",
        threads: REGION_THREADS,
        evictable: mode === "direct" || options.cacheBytes !== undefined,
        writeThrough: !store.traits.readOnly && (mode === "direct" || writes === "through"),
        onSync: () => void mount?.sync(),
        onFault: (chunks) => mount?.fault(chunks),
      }),
    );
    mount = new StoreMount(region, options, health);
    // Of a mount before this one.
    region.mergeDirty(region.written());
    return mount;
  }

  /** Begins to pull. May be called before programs see the region. */
  start(): void {
    this.#puller.start();
    if (!this.#store.traits.readOnly) this.#pusher.start();
    this.#residents?.start();
  }

  progress(): StoreMountProgress {
    const { presentChunks } = this.region.stats();
    const bytesTotal = this.region.bytes;
    return {
      bytesTotal,
      bytesPresent: Math.min(presentChunks * this.region.chunkBytes, bytesTotal),
      bytesPulled: this.#puller.counters.bytesPulled,
      bytesPushed: this.#pusher.counters.bytesPushed,
      bytesHeld: this.#pusher.heldBytes,
      oldestHeldMs: this.#pusher.oldestMs,
      faults: this.#puller.counters.faults,
      pullWindow: this.#puller.window,
      pulled: this.#puller.complete,
      store: this.#health.state,
    };
  }

  /** What was written before the call is durable at the store. @throws StoreError */
  async flush(): Promise<void> {
    if (!this.#store.traits.readOnly) await this.#pusher.push({ all: true });
  }

  /**
   * Exports must be gone, and what they held flushed to the region. What cannot be pushed stays in a cache that has a
   * file, for the next mount.
   *
   * @throws StoreError What was written is not all at the store.
   */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    let failure: unknown;
    try {
      await this.flush();
    } catch (error) {
      failure = error;
    }
    await this.#puller.stop();
    await this.#pusher.stop();
    await this.#residents?.stop();
    await this.region.close();
    if (failure !== undefined) throw failure;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private fault(chunks: Uint32Array): void {
    this.#puller.fault(chunks);
  }

  /** Somebody waits for durability. Who comes while a push is under way is of the next one. */
  private async sync(): Promise<void> {
    this.#syncAsked = true;
    if (this.#syncing) return;
    this.#syncing = true;
    while (this.#syncAsked && this.region.id !== 0) {
      this.#syncAsked = false;
      const group = this.region.takeSyncs();
      // The reason is told by onPushFailure; the program gets an error for it, as from a disk.
      const errno = await this.flush().then(
        () => undefined,
        () => "EIO",
      );
      if (this.region.id !== 0) this.region.settleSyncs(group, errno);
    }
    this.#syncing = false;
  }
}
