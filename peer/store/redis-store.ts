/**
 * A store in Redis: a key for each block.
 *
 * `memferry:{NAME}:meta` says what it is, `memferry:{NAME}:INDEX` holds a block, and `memferry:{NAME}:lease` whose turn it
 * is to write. The braces keep all of one store on one node of a cluster. Each write names the lease that it is made
 * under, so a writer that was given up on changes nothing any more.
 *
 * @module
 */
import { randomUUID } from "node:crypto";
import { createClient, RESP_TYPES, type RedisClientType } from "@redis/client";
import { z } from "zod";
import { messageOf } from "../../relay/protocol/errors.ts";
import { Lease, LEASE_MS } from "./lease.ts";
import { requireFits, type OpenStoreOptions } from "./opening.ts";
import {
  requireBlocks,
  StoreError,
  type Store,
  type StoreErrorCode,
  type StoreExtent,
  type StoreTraits,
} from "./store.ts";

const FORMAT = "memferry-redis-1";
const CONNECT_MS = 10_000;
const COMMAND_MS = 30_000;
const QUEUE_MAX = 4096;
const SCAN_COUNT = 1000;
const RECONNECT_MAX_MS = 2_000;

const metaSchema = z.strictObject({
  format: z.literal(FORMAT),
  bytes: z.int().positive(),
  blockBytes: z.int().positive(),
});

/** Writes blocks, or takes them away where no bytes are given, under a lease. */
const WRITE = `
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #KEYS do
  if ARGV[2] == 'zero' then redis.call('del', KEYS[i]) else redis.call('set', KEYS[i], ARGV[i + 1]) end
end
return 1`;
const RENEW = `
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('pexpire', KEYS[1], ARGV[2])
return 1`;
const RELEASE = `
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0`;

export interface RedisPlace {
  /** Without the name of the store. May have a password. */
  readonly url: URL;
  /** Which one of that server's. */
  readonly store: string;
}

type Reply = Buffer | number | null | Reply[];

export class RedisStore implements Store {
  readonly name: string;
  readonly bytes: number;
  readonly traits: StoreTraits;
  readonly #connection: Connection;
  readonly #prefix: string;
  readonly #token: string;
  readonly #lease: Lease | undefined;
  #closed = false;

  private constructor(
    connection: Connection,
    prefix: string,
    shape: z.infer<typeof metaSchema>,
    token: string,
    readOnly: boolean,
  ) {
    this.#connection = connection;
    this.#prefix = prefix;
    this.#token = token;
    this.name = connection.name;
    this.bytes = shape.bytes;
    this.traits = {
      blockBytes: shape.blockBytes,
      maxBytes: Math.max(shape.blockBytes, 1 << 20),
      concurrency: 16,
      readOnly,
      fenced: !readOnly,
    };
    this.#lease = readOnly
      ? undefined
      : new Lease(
          async () =>
            (await connection.eval(RENEW, [`${prefix}lease`], [token, String(LEASE_MS)])) === 1,
        );
  }

  /** @throws StoreError `STORE_FENCED`: another writer has it */
  static async open(place: RedisPlace, options: OpenStoreOptions): Promise<RedisStore> {
    const connection = await Connection.open(place);
    const prefix = `memferry:{${place.store}}:`;
    const token = randomUUID();
    try {
      if (!options.readOnly) await takeLease(connection, prefix, token);
      const meta = await findOrMake(connection, prefix, options);
      requireFits(connection.name, meta, options);
      return new RedisStore(connection, prefix, meta, token, options.readOnly);
    } catch (error) {
      await connection.eval(RELEASE, [`${prefix}lease`], [token]).catch(() => undefined);
      await connection.close();
      throw error;
    }
  }

  async read(offset: number, into: Uint8Array, signal?: AbortSignal): Promise<boolean> {
    this.#require(offset, into.length);
    const { blockBytes } = this.traits;
    const keys = this.#keys(offset, into.length);
    const replies = await this.#connection.send(["MGET", ...keys], signal);
    if (!Array.isArray(replies))
      throw new StoreError("STORE_CORRUPT", `${this.name} answered a read with no list`);
    let found = false;
    for (const [k, bytes] of replies.entries()) {
      const block = into.subarray(k * blockBytes, (k + 1) * blockBytes);
      if (bytes === null) {
        block.fill(0);
        continue;
      }
      if (!Buffer.isBuffer(bytes) || bytes.length !== block.length) {
        throw new StoreError(
          "STORE_CORRUPT",
          `${this.name}: block ${offset / blockBytes + k} is not of ${block.length} bytes`,
        );
      }
      block.set(bytes);
      found = true;
    }
    return found;
  }

  async write(offset: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    this.#require(offset, bytes.length, true);
    const { blockBytes } = this.traits;
    const blocks: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += blockBytes) {
      const block = bytes.subarray(at, at + blockBytes);
      blocks.push(Buffer.from(block.buffer, block.byteOffset, block.byteLength));
    }
    await this.#change(this.#keys(offset, bytes.length), ["data", ...blocks], signal);
  }

  async writeZeroes(offset: number, length: number, signal?: AbortSignal): Promise<void> {
    this.#require(offset, length, true);
    await this.#change(this.#keys(offset, length), ["zero"], signal);
  }

  /** As durable as that server makes it; it waits for the append-only file where the server can say (Redis 7.2). */
  async flush(signal?: AbortSignal): Promise<void> {
    if (this.#closed) throw this.#wasClosed();
    await this.#connection.flush(signal);
  }

  async *list(signal?: AbortSignal): AsyncIterable<StoreExtent> {
    const { blockBytes } = this.traits;
    const found: number[] = [];
    let cursor = "0";
    do {
      const reply = await this.#connection.send(
        [
          "SCAN",
          cursor,
          "MATCH",
          `${escapePattern(this.#prefix)}[0-9]*`,
          "COUNT",
          String(SCAN_COUNT),
        ],
        signal,
      );
      const [next, keys] = Array.isArray(reply) ? reply : [];
      cursor = String(next);
      for (const key of Array.isArray(keys) ? keys : [])
        found.push(Number(String(key).slice(this.#prefix.length)));
    } while (cursor !== "0");
    // The server may name one twice.
    for (const block of [...new Set(found)].sort((a, b) => a - b)) {
      const offset = block * blockBytes;
      if (offset < this.bytes) yield { offset, length: Math.min(blockBytes, this.bytes - offset) };
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#lease?.stop();
    // A server that is gone lets it expire.
    if (this.#lease !== undefined) {
      await this.#connection
        .eval(RELEASE, [`${this.#prefix}lease`], [this.#token])
        .catch(() => undefined);
    }
    await this.#connection.close();
  }

  async #change(
    keys: readonly string[],
    given: readonly (string | Buffer)[],
    signal?: AbortSignal,
  ): Promise<void> {
    this.#lease?.require(this.name);
    const leaseKey = `${this.#prefix}lease`;
    const done = await this.#connection.eval(
      WRITE,
      [leaseKey, ...keys],
      [this.#token, ...given],
      signal,
    );
    if (done === 1) return;
    // It expired while the server was out of reach; nobody else may have come.
    const again = await this.#connection.send(
      ["SET", leaseKey, this.#token, "NX", "PX", String(LEASE_MS)],
      signal,
    );
    if (
      again !== null &&
      (await this.#connection.eval(WRITE, [leaseKey, ...keys], [this.#token, ...given], signal)) ===
        1
    )
      return;
    throw new StoreError(
      "STORE_FENCED",
      `another writer has taken ${this.name} over: nothing more is written to it`,
    );
  }

  #keys(offset: number, length: number): string[] {
    const { blockBytes } = this.traits;
    const first = offset / blockBytes;
    return Array.from(
      { length: Math.ceil(length / blockBytes) },
      (_, k) => `${this.#prefix}${first + k}`,
    );
  }

  #require(offset: number, length: number, writes = false): void {
    if (this.#closed) throw this.#wasClosed();
    if (writes && this.traits.readOnly)
      throw new StoreError("STORE_READ_ONLY", `${this.name} was opened for reading`);
    requireBlocks(this, offset, length);
  }

  #wasClosed(): StoreError {
    return new StoreError("STORE_CLOSED", `${this.name} was closed`);
  }
}

async function takeLease(connection: Connection, prefix: string, token: string): Promise<void> {
  const taken = await connection.send([
    "SET",
    `${prefix}lease`,
    token,
    "NX",
    "PX",
    String(LEASE_MS),
  ]);
  if (taken !== null) return;
  throw new StoreError(
    "STORE_FENCED",
    `another writer has ${connection.name}: end it, or if it is gone wait ${LEASE_MS / 1000} s; --read-only needs no turn`,
  );
}

async function findOrMake(
  connection: Connection,
  prefix: string,
  { bytes, blockBytes, readOnly }: OpenStoreOptions,
): Promise<z.infer<typeof metaSchema>> {
  const found = await connection.send(["GET", `${prefix}meta`]);
  if (found !== null) {
    const parsed = metaSchema.safeParse(jsonOf(String(found)));
    if (parsed.success) return parsed.data;
    throw new StoreError("STORE_MISMATCH", `${connection.name} is no store of this release`);
  }
  if (bytes === undefined || readOnly) {
    throw new StoreError(
      "STORE_MISSING",
      `${connection.name} is not there: to make it, give --size`,
    );
  }
  const meta = { format: FORMAT, bytes, blockBytes } as const;
  await connection.send(["SET", `${prefix}meta`, JSON.stringify(meta)]);
  return meta;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function escapePattern(text: string): string {
  return text.replaceAll(/[*?[\]\\^]/g, String.raw`\$&`);
}

/** One connection, whose commands the server takes one after another. */
class Connection {
  readonly name: string;
  readonly #client: RedisClientType;
  #syncs: boolean | undefined;

  private constructor(name: string, client: RedisClientType) {
    this.name = name;
    this.#client = client;
  }

  static async open({ url, store }: RedisPlace): Promise<Connection> {
    const shown = new URL(url);
    shown.username = shown.password = "";
    const name = `${shown.href.replace(/\/$/, "")}#${store}`;
    const client: RedisClientType = createClient({
      url: url.href,
      socket: {
        connectTimeout: CONNECT_MS,
        reconnectStrategy: (retries) => Math.min(50 * 2 ** retries, RECONNECT_MAX_MS),
      },
      // Who calls tries again; a queue of our own bytes must not grow while nobody takes them.
      disableOfflineQueue: true,
      commandsQueueMaxLength: QUEUE_MAX,
      commandOptions: { timeout: COMMAND_MS },
    });
    // It connects again by itself; the calls that fail meanwhile say so.
    client.on("error", () => undefined);
    const connection = new Connection(name, client);
    try {
      await Promise.race([client.connect(), failed(client)]);
    } catch (error) {
      client.destroy();
      throw connection.#error(error);
    }
    return connection;
  }

  async send(args: readonly (string | Buffer)[], signal?: AbortSignal): Promise<Reply> {
    try {
      return await this.#client.sendCommand<Reply>([...args], {
        typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer },
        ...(signal === undefined ? {} : { abortSignal: signal }),
      });
    } catch (error) {
      throw this.#error(error);
    }
  }

  async eval(
    script: string,
    keys: readonly string[],
    args: readonly (string | Buffer)[],
    signal?: AbortSignal,
  ): Promise<Reply> {
    return await this.send(["EVAL", script, String(keys.length), ...keys, ...args], signal);
  }

  async flush(signal?: AbortSignal): Promise<void> {
    if (this.#syncs === false) return void (await this.send(["PING"], signal));
    try {
      const reply = await this.send(["WAITAOF", "1", "0", String(COMMAND_MS)], signal);
      this.#syncs = true;
      if (Array.isArray(reply) && reply[0] === 1) return;
      throw new StoreError("STORE_UNAVAILABLE", `${this.name} did not write its file in time`);
    } catch (error) {
      // Older, or without an append-only file: then its own settings say how durable it is.
      const told = messageOf(error);
      if (!/unknown command|AOF is disabled|appendonly/i.test(told)) throw error;
      this.#syncs = false;
    }
  }

  async close(): Promise<void> {
    if (this.#client.isReady) await this.#client.close().catch(() => undefined);
    else this.#client.destroy();
  }

  #error(error: unknown): StoreError {
    if (error instanceof StoreError) return error;
    const told = messageOf(error);
    return new StoreError(codeOf(told), `${this.name}: ${told}`, { cause: error });
  }
}

/** The first thing that goes wrong: `connect` alone would try for ever. */
async function failed(client: RedisClientType): Promise<never> {
  return await new Promise<never>((_, reject) => client.once("error", reject));
}

function codeOf(told: string): StoreErrorCode {
  if (/^(NOAUTH|WRONGPASS|NOPERM)|AUTH/i.test(told)) return "STORE_DENIED";
  if (/^OOM|maxmemory/i.test(told)) return "STORE_NO_SPACE";
  if (/^WRONGTYPE|unknown command/i.test(told)) return "STORE_INTERNAL";
  // READONLY, LOADING, MASTERDOWN, CLUSTERDOWN, MISCONF (its disk is full), BUSY, and everything of the network.
  return "STORE_UNAVAILABLE";
}
