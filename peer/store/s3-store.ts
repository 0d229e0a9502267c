/**
 * A store in a bucket of any server that speaks S3.
 *
 * A block that was written is an object of its own, `PREFIX/b/INDEX`. Many that rest together are packed: `PREFIX/p/PACK`
 * holds all blocks of a stretch, and ranges of it are read. A block of its own is newer than the pack. What is where is
 * listed once, at the start; from then on this is the only writer and knows.
 *
 * `PREFIX/memferry-store.json` says what the store is, `PREFIX/lease` whose turn it is to write.
 *
 * @module
 */
import { randomUUID } from "node:crypto";
import {
  DeleteObjectsCommand,
  GetObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  type S3ClientConfig,
} from "@aws-sdk/client-s3";
import { z } from "zod";
import { messageOf } from "../../relay/protocol/errors.ts";
import { storeEnvironment } from "../config.ts";
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

const FORMAT = "memferry-s3-1";
const DIGITS = 12;
const PACK_BYTES = 8 << 20;
/** A pack is made once this much of its blocks are objects of their own. */
const PACK_WORTH = 0.5;
const MAX_BYTES = 4 << 20;
const REQUEST_MS = 60_000;
const DELETE_MAX = 1000;

const metaSchema = z.strictObject({
  format: z.literal(FORMAT),
  bytes: z.int().positive(),
  blockBytes: z.int().positive(),
  packBlocks: z.int().positive(),
});

type Meta = z.infer<typeof metaSchema>;

const leaseSchema = z.strictObject({ holder: z.string(), untilMs: z.int() });

export interface S3Place {
  readonly bucket: string;
  /** Without slashes at its ends; may be empty. */
  readonly prefix: string;
  /** Default: AWS. */
  readonly endpoint?: string;
  readonly region?: string;
  /** `path`: the bucket is part of the path, as most servers of one's own want it. */
  readonly style?: "path" | "virtual";
}

export class S3Store implements Store {
  readonly name: string;
  readonly bytes: number;
  readonly traits: StoreTraits;
  readonly #bucket: Bucket;
  readonly #meta: Meta;
  readonly #lease: Lease | undefined;
  /** Blocks that are objects of their own, and packs that are there. */
  readonly #own = new Set<number>();
  readonly #packs = new Set<number>();
  #closed = false;

  private constructor(bucket: Bucket, meta: Meta, token: string, readOnly: boolean) {
    this.#bucket = bucket;
    this.#meta = meta;
    this.name = bucket.name;
    this.bytes = meta.bytes;
    this.traits = {
      blockBytes: meta.blockBytes,
      maxBytes: Math.max(meta.blockBytes, MAX_BYTES),
      concurrency: 32,
      readOnly,
      fenced: false,
    };
    this.#lease = readOnly ? undefined : new Lease(async () => await renewLease(bucket, token));
  }

  /** @throws StoreError */
  static async open(place: S3Place, options: OpenStoreOptions): Promise<S3Store> {
    const bucket = new Bucket(place);
    const token = randomUUID();
    let leased = false;
    try {
      const meta = await findOrMake(bucket, options);
      requireFits(bucket.name, meta, options);
      if (!options.readOnly) {
        await takeLease(bucket, token);
        leased = true;
      }
      const store = new S3Store(bucket, meta, token, options.readOnly);
      await store.#learn();
      return store;
    } catch (error) {
      if (leased) await bucket.remove(["lease"]).catch(() => undefined);
      bucket.close();
      throw error;
    }
  }

  async read(offset: number, into: Uint8Array, signal?: AbortSignal): Promise<boolean> {
    this.#require(offset, into.length);
    const { blockBytes } = this.traits;
    const first = offset / blockBytes;
    const count = Math.ceil(into.length / blockBytes);
    const parts: { readonly from: number; readonly until: number; readonly pack?: number }[] = [];
    let found = false;
    for (let k = 0; k < count;) {
      const block = first + k;
      const pack = Math.floor(block / this.#meta.packBlocks);
      if (this.#own.has(block)) {
        parts.push({ from: k, until: ++k });
        continue;
      }
      // Neighbours in one pack are one request.
      let end = k + 1;
      const same = (next: number): boolean =>
        next < count &&
        !this.#own.has(first + next) &&
        Math.floor((first + next) / this.#meta.packBlocks) === pack;
      while (same(end)) end++;
      if (this.#packs.has(pack)) parts.push({ from: k, until: end, pack });
      else into.fill(0, k * blockBytes, end * blockBytes);
      k = end;
    }
    await Promise.all(
      parts.map(async ({ from, until, pack }) => {
        const target = into.subarray(from * blockBytes, until * blockBytes);
        found = true;
        if (pack === undefined)
          return await this.#bucket.get(blockKey(first + from), target, undefined, signal);
        const at = (first + from - pack * this.#meta.packBlocks) * blockBytes;
        await this.#bucket.get(packKey(pack), target, at, signal);
      }),
    );
    return found;
  }

  async write(offset: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    this.#require(offset, bytes.length, true);
    const { blockBytes } = this.traits;
    await Promise.all(
      Array.from({ length: Math.ceil(bytes.length / blockBytes) }, async (_, k) => {
        const block = offset / blockBytes + k;
        await this.#bucket.put(
          blockKey(block),
          bytes.subarray(k * blockBytes, (k + 1) * blockBytes),
          signal,
        );
        this.#own.add(block);
      }),
    );
  }

  async writeZeroes(offset: number, length: number, signal?: AbortSignal): Promise<void> {
    this.#require(offset, length, true);
    const { blockBytes } = this.traits;
    const removed: number[] = [];
    for (let at = 0; at < length; at += blockBytes) {
      const block = (offset + at) / blockBytes;
      if (this.#packs.has(Math.floor(block / this.#meta.packBlocks))) {
        // What the pack has there must not come back.
        await this.write(
          block * blockBytes,
          new Uint8Array(Math.min(blockBytes, this.bytes - block * blockBytes)),
          signal,
        );
      } else if (this.#own.has(block)) removed.push(block);
    }
    await this.#bucket.remove(removed.map(blockKey), signal);
    for (const block of removed) this.#own.delete(block);
  }

  /** An object that was accepted is durable. */
  async flush(): Promise<void> {
    if (this.#closed) throw this.#wasClosed();
    this.#lease?.require(this.name);
    await Promise.resolve();
  }

  /** Packs the stretches of which enough blocks are objects of their own. Nobody may write meanwhile. */
  async pack(signal?: AbortSignal): Promise<number> {
    const counts = new Map<number, number>();
    for (const block of this.#own) {
      const pack = Math.floor(block / this.#meta.packBlocks);
      counts.set(pack, (counts.get(pack) ?? 0) + 1);
    }
    let packed = 0;
    for (const [pack, count] of counts) {
      if (count < this.#meta.packBlocks * PACK_WORTH) continue;
      await this.#packOne(pack, signal);
      packed++;
    }
    return packed;
  }

  async *list(): AsyncIterable<StoreExtent> {
    const { blockBytes } = this.traits;
    const packBytes = this.#meta.packBlocks * blockBytes;
    const extents = [
      ...[...this.#packs].map((pack) => ({ offset: pack * packBytes, length: packBytes })),
      ...[...this.#own].map((block) => ({ offset: block * blockBytes, length: blockBytes })),
    ];
    for (const { offset, length } of extents.sort((a, b) => a.offset - b.offset)) {
      yield await Promise.resolve({ offset, length: Math.min(length, this.bytes - offset) });
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    try {
      if (!this.traits.readOnly && this.#lease?.isFresh === true) await this.pack();
    } finally {
      this.#closed = true;
      this.#lease?.stop();
      if (this.#lease?.isFresh === true)
        await this.#bucket.remove(["lease"]).catch(() => undefined);
      this.#bucket.close();
    }
  }

  async #packOne(pack: number, signal?: AbortSignal): Promise<void> {
    const { blockBytes } = this.traits;
    const offset = pack * this.#meta.packBlocks * blockBytes;
    const bytes = new Uint8Array(Math.min(this.#meta.packBlocks * blockBytes, this.bytes - offset));
    for (let at = 0; at < bytes.length; at += this.traits.maxBytes) {
      await this.read(offset + at, bytes.subarray(at, at + this.traits.maxBytes), signal);
    }
    this.#lease?.require(this.name);
    await this.#bucket.put(packKey(pack), bytes, signal);
    this.#packs.add(pack);
    // Until they are gone they say the same as the pack.
    const first = pack * this.#meta.packBlocks;
    const own = Array.from({ length: this.#meta.packBlocks }, (_, k) => first + k).filter((block) =>
      this.#own.has(block),
    );
    await this.#bucket.remove(own.map(blockKey), signal);
    for (const block of own) this.#own.delete(block);
  }

  async #learn(): Promise<void> {
    for await (const key of this.#bucket.list("b/")) this.#own.add(Number(key.slice(2)));
    for await (const key of this.#bucket.list("p/")) this.#packs.add(Number(key.slice(2)));
  }

  #require(offset: number, length: number, writes = false): void {
    if (this.#closed) throw this.#wasClosed();
    if (writes && this.traits.readOnly)
      throw new StoreError("STORE_READ_ONLY", `${this.name} was opened for reading`);
    if (writes) this.#lease?.require(this.name);
    requireBlocks(this, offset, length);
  }

  #wasClosed(): StoreError {
    return new StoreError("STORE_CLOSED", `${this.name} was closed`);
  }
}

function blockKey(block: number): string {
  return `b/${String(block).padStart(DIGITS, "0")}`;
}

function packKey(pack: number): string {
  return `p/${String(pack).padStart(DIGITS, "0")}`;
}

async function findOrMake(
  bucket: Bucket,
  { bytes, blockBytes, readOnly }: OpenStoreOptions,
): Promise<Meta> {
  const text = await bucket.getText("memferry-store.json");
  if (text !== undefined) {
    const parsed = metaSchema.safeParse(jsonOf(text));
    if (parsed.success) return parsed.data;
    throw new StoreError("STORE_MISMATCH", `${bucket.name} is no store of this release`);
  }
  if (bytes === undefined || readOnly) {
    throw new StoreError("STORE_MISSING", `${bucket.name} is not there: to make it, give --size`);
  }
  const packBlocks = Math.max(1, Math.floor(PACK_BYTES / blockBytes));
  const meta = { format: FORMAT, bytes, blockBytes, packBlocks } as const;
  await bucket.put("memferry-store.json", Buffer.from(JSON.stringify(meta)));
  return meta;
}

/** Where the server knows conditions, two that come at once do not both get it. */
async function takeLease(bucket: Bucket, token: string): Promise<void> {
  const found = leaseSchema.safeParse(jsonOf((await bucket.getText("lease")) ?? ""));
  if (found.success && found.data.untilMs > Date.now()) {
    const seconds = Math.ceil((found.data.untilMs - Date.now()) / 1000);
    throw new StoreError(
      "STORE_FENCED",
      `another writer has ${bucket.name}: end it, or if it is gone wait ${seconds} s; --read-only needs no turn`,
    );
  }
  if (found.success) await bucket.remove(["lease"]);
  await bucket.put("lease", leaseOf(token), undefined, { onlyNew: true });
}

async function renewLease(bucket: Bucket, token: string): Promise<boolean> {
  const found = leaseSchema.safeParse(jsonOf((await bucket.getText("lease")) ?? ""));
  if (found.success && found.data.holder !== token) return false;
  await bucket.put("lease", leaseOf(token));
  return true;
}

function leaseOf(holder: string): Buffer {
  return Buffer.from(JSON.stringify({ holder, untilMs: Date.now() + LEASE_MS }));
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The objects below a prefix. */
class Bucket {
  readonly name: string;
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;

  constructor({ bucket, prefix, endpoint, region, style }: S3Place) {
    this.name = `s3://${bucket}${prefix === "" ? "" : `/${prefix}`}${endpoint === undefined ? "" : ` at ${endpoint}`}`;
    this.#bucket = bucket;
    this.#prefix = prefix === "" ? "" : `${prefix}/`;
    const config: S3ClientConfig = {
      // Credentials come from where all of AWS' tools have them: environment, files, roles.
      ...(endpoint === undefined ? {} : { endpoint }),
      region: region ?? storeEnvironment().awsRegion ?? "us-east-1",
      forcePathStyle: (style ?? (endpoint === undefined ? "virtual" : "path")) === "path",
      maxAttempts: 3,
      // Servers of one's own know them seldom.
      requestChecksumCalculation: "WHEN_REQUIRED",
      responseChecksumValidation: "WHEN_REQUIRED",
      requestHandler: {
        requestTimeout: REQUEST_MS,
        connectionTimeout: 10_000,
        httpsAgent: { maxSockets: 64 },
        httpAgent: { maxSockets: 64 },
      },
    };
    this.#client = new S3Client(config);
  }

  /** Fills `into` with the object, or with the part of it at `offset`. */
  async get(key: string, into: Uint8Array, offset?: number, signal?: AbortSignal): Promise<void> {
    const range =
      offset === undefined ? {} : { Range: `bytes=${offset}-${offset + into.length - 1}` };
    const bytes = await this.#try(signal, async (options) => {
      const { Body } = await this.#client.send(
        new GetObjectCommand({ Bucket: this.#bucket, Key: this.#prefix + key, ...range }),
        options,
      );
      return await Body?.transformToByteArray();
    });
    if (bytes?.length !== into.length) {
      throw new StoreError(
        "STORE_CORRUPT",
        `${this.name}: ${key} gave ${bytes?.length ?? 0} bytes and not ${into.length}`,
      );
    }
    into.set(bytes);
  }

  /** `undefined`: there is no such object. */
  async getText(key: string): Promise<string | undefined> {
    try {
      return await this.#try(undefined, async (options) => {
        const { Body } = await this.#client.send(
          new GetObjectCommand({ Bucket: this.#bucket, Key: this.#prefix + key }),
          options,
        );
        return await Body?.transformToString();
      });
    } catch (error) {
      if (error instanceof StoreError && nameOf(error.cause) === "NoSuchKey") return undefined;
      throw error;
    }
  }

  async put(
    key: string,
    bytes: Uint8Array,
    signal?: AbortSignal,
    { onlyNew = false } = {},
  ): Promise<void> {
    await this.#try(signal, async (options) => {
      await this.#client.send(
        new PutObjectCommand({
          Bucket: this.#bucket,
          Key: this.#prefix + key,
          Body: bytes,
          ContentLength: bytes.length,
          ...(onlyNew ? { IfNoneMatch: "*" } : {}),
        }),
        options,
      );
    });
  }

  async remove(keys: readonly string[], signal?: AbortSignal): Promise<void> {
    for (let at = 0; at < keys.length; at += DELETE_MAX) {
      const some = keys.slice(at, at + DELETE_MAX);
      await this.#try(signal, async (options) => {
        const { Errors = [] } = await this.#client.send(
          new DeleteObjectsCommand({
            Bucket: this.#bucket,
            Delete: { Objects: some.map((key) => ({ Key: this.#prefix + key })), Quiet: true },
          }),
          options,
        );
        const [first] = Errors;
        if (first !== undefined)
          throw new Error(`${first.Code ?? "an error"}: ${first.Message ?? ""}`);
      });
    }
  }

  /** Keys below `folder`, without the prefix. */
  async *list(folder: string): AsyncIterable<string> {
    let token: string | undefined;
    do {
      const page = await this.#try(
        undefined,
        async (options) =>
          await this.#client.send(
            new ListObjectsV2Command({
              Bucket: this.#bucket,
              Prefix: this.#prefix + folder,
              ...(token === undefined ? {} : { ContinuationToken: token }),
            }),
            options,
          ),
      );
      for (const { Key } of page.Contents ?? [])
        if (Key !== undefined) yield Key.slice(this.#prefix.length);
      token = page.IsTruncated === true ? page.NextContinuationToken : undefined;
    } while (token !== undefined);
  }

  close(): void {
    this.#client.destroy();
  }

  async #try<T>(
    signal: AbortSignal | undefined,
    run: (options: { abortSignal?: AbortSignal }) => Promise<T>,
  ): Promise<T> {
    try {
      return await run(signal === undefined ? {} : { abortSignal: signal });
    } catch (error) {
      if (error instanceof StoreError) throw error;
      throw new StoreError(codeOf(error), `${this.name}: ${messageOf(error)}`, { cause: error });
    }
  }
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : "";
}

function codeOf(error: unknown): StoreErrorCode {
  switch (nameOf(error)) {
    case "NoSuchBucket":
    case "NoSuchKey":
    case "NotFound":
      return "STORE_MISSING";
    case "AccessDenied":
    case "Forbidden":
    case "InvalidAccessKeyId":
    case "SignatureDoesNotMatch":
    case "ExpiredToken":
    case "CredentialsProviderError":
      return "STORE_DENIED";
    case "QuotaExceeded":
    case "XMinioStorageFull":
    case "XMinioAdminBucketQuotaExceeded":
      return "STORE_NO_SPACE";
    case "PreconditionFailed":
      return "STORE_FENCED";
    default:
      return statusOf(error) === 403
        ? "STORE_DENIED"
        : statusOf(error) === 507
          ? "STORE_NO_SPACE"
          : "STORE_UNAVAILABLE";
  }
}

function statusOf(error: unknown): number | undefined {
  const metadata = z
    .object({ $metadata: z.object({ httpStatusCode: z.number().optional() }) })
    .safeParse(error);
  return metadata.success ? metadata.data.$metadata.httpStatusCode : undefined;
}
