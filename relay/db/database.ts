/**
 * The relay's database: PostgreSQL by URL, or PGlite in a directory or in memory. One type for both.
 *
 * Drizzle serves the control tables. The chunk index goes past it, by prepared statements with binary
 * parameters. A failure of the database is `RelayError` `DATABASE_UNAVAILABLE` with its cause, whichever
 * driver it came from, and never an event that ends the process.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { PGlite, types } from "@electric-sql/pglite";
import { drizzle as drizzlePostgres } from "drizzle-orm/node-postgres";
import { migrate as migratePostgres } from "drizzle-orm/node-postgres/migrator";
import type { PgDatabase, PgQueryResultHKT } from "drizzle-orm/pg-core";
import { drizzle as drizzlePglite } from "drizzle-orm/pglite";
import { migrate as migratePglite } from "drizzle-orm/pglite/migrator";
import pg from "pg";

import { messageOf, ProtocolError } from "../protocol/errors.ts";
import { RelayError, systemCode } from "../errors.ts";
import { bulkRows, CopyOut, copyText, type BulkRow } from "./bulk.ts";
import * as schema from "./schema.ts";

/** What both drivers' Drizzle has in common, a transaction included. */
export type Orm = PgDatabase<PgQueryResultHKT, typeof schema>;

/** A statement that is parsed once per connection. `name` is unique in the program. */
export interface Statement {
  readonly name: string;
  readonly text: string;
}

export type Value = string | number | boolean | null | Uint8Array;
/** Integers of 64 bits come as text from one driver and as a number from the other: use `Number()`. */
export type Row = Readonly<Record<string, unknown>>;
export type Query = (statement: Statement, values: readonly Value[]) => Promise<readonly Row[]>;

export interface Database extends AsyncDisposable {
  readonly kind: "postgres" | "pglite";
  /** @throws RelayError `DATABASE_UNAVAILABLE`, and what `work` throws of ours. */
  run<T>(work: (orm: Orm) => Promise<T>): Promise<T>;
  /** One transaction; done again from the start if it collided with another. */
  transaction<T>(work: (orm: Orm) => Promise<T>): Promise<T>;
  /** One prepared statement. */
  readonly query: Query;
  /**
   * All rows of a SELECT, their fields as bytes. It has no parameters: the caller puts nothing but numbers into it.
   */
  bulk(select: string): Promise<readonly BulkRow[]>;
  /**
   * One prepared statement that somebody's workload waits for. It overtakes everything else on connections of its
   * own, and is soon answered or given up; what was given up may be carried out yet.
   */
  readonly decide: Query;
  /** Prepared statements in one transaction; done again from the start if it collided with another. */
  queryTransaction<T>(work: (query: Query) => Promise<T>): Promise<T>;
  /** Rejects if the database does not answer. */
  ping(): Promise<void>;
  /**
   * The files of the embedded database as one compressed tar, as they are between two statements; nothing else is
   * answered meanwhile. Absent for PostgreSQL, whose own tools do it better.
   */
  readonly backup?: () => Promise<Blob>;
  /** Repeated calls do nothing. */
  close(): Promise<void>;
}

export interface OpenDatabaseOptions {
  /** `postgres://...`. */
  readonly url?: string | undefined;
  /** Where PGlite keeps its files; nobody else may have it open. */
  readonly dataDir?: string | undefined;
  /** PGlite without files: gone when closed. */
  readonly memory?: boolean | undefined;
  /** Told of every failure; for a counter and the log. */
  readonly onError?: (error: unknown) => void;
}

const CONNECTIONS_MAX = 10;
const CONNECT_TIMEOUT_MS = 5_000;
const STATEMENT_TIMEOUT_MS = 15_000;
/** Longer than the server's own, so that the server's answer comes first if there is one. */
const QUERY_TIMEOUT_MS = 20_000;
/** A relay that stops in the middle of a transaction must not keep what it locked. */
const IDLE_IN_TRANSACTION_MS = 10_000;
/** The same for what decides, which is one row by its key: who asks is told early to ask again. */
const DECIDING_CONNECTIONS_MAX = 4;
const DECIDING_CONNECT_TIMEOUT_MS = 3_000;
const DECIDING_STATEMENT_TIMEOUT_MS = 4_000;
const DECIDING_QUERY_TIMEOUT_MS = 5_000;
/** How often a transaction that collided with another is done again. */
const TRANSACTION_ATTEMPTS = 5;
/** What `checkDatabase` asks for: the oldest that the suite runs on. */
const POSTGRES_VERSION_MIN = 150_000;
/** Any number, the same in every relay: one of them migrates, the others wait. */
const MIGRATION_LOCK = 0x6d66_7279;

/** Opens the database and brings its tables up to date. */
export async function openDatabase(options: OpenDatabaseOptions = {}): Promise<Database> {
  const onError = options.onError ?? (() => {});
  try {
    return options.url === undefined
      ? await openPglite(options.memory === true ? undefined : options.dataDir, onError)
      : await openPostgres(options.url, onError);
  } catch (error) {
    throw translate(error, "the database could not be opened");
  }
}

/**
 * Whether a PostgreSQL could be used: it answers, it is not a read-only copy, and tables can be made.
 *
 * @throws RelayError `DATABASE_UNAVAILABLE` or `CONFIG_INVALID`; no message shows the URL, which may hold a password.
 */
export async function checkDatabase(url: string): Promise<void> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    query_timeout: CONNECT_TIMEOUT_MS,
  });
  client.on("error", () => {});
  try {
    await client.connect();
    const { rows } = await client.query<{ version: number; copy: boolean; create: boolean }>(
      `select current_setting('server_version_num')::int as version, pg_is_in_recovery() as copy,
        has_database_privilege(current_database(), 'create') as create`,
    );
    const [found] = rows;
    if (found === undefined) throw new Error("no answer");
    if (found.version < POSTGRES_VERSION_MIN) {
      throw new RelayError(
        "CONFIG_INVALID",
        `this PostgreSQL is of version ${Math.floor(found.version / 10_000)}: use ${POSTGRES_VERSION_MIN / 10_000} or later`,
      );
    }
    if (found.copy) {
      throw new RelayError(
        "CONFIG_INVALID",
        "this PostgreSQL is a read-only copy: give the URL of its primary",
      );
    }
    if (!found.create) {
      throw new RelayError(
        "CONFIG_INVALID",
        "this user may not make schemas in the database: grant create on database to it",
      );
    }
  } catch (error) {
    throw translate(error, "the database cannot be used");
  } finally {
    await client.end().catch(() => {});
  }
}

async function openPglite(
  dataDir: string | undefined,
  onError: (error: unknown) => void,
): Promise<Database> {
  const client = await PGlite.create({
    ...(dataDir === undefined ? {} : { dataDir }),
    // Its own go through the hexadecimal digits one byte at a time: a twentieth of the speed.
    parsers: { [types.BYTEA]: (text) => Buffer.from(text.slice(2), "hex") },
    serializers: {
      [types.BYTEA]: (value: Uint8Array) =>
        `\\x${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("hex")}`,
    },
  });
  const typed = drizzlePglite(client, { schema });
  await migratePglite(typed, { migrationsFolder: migrationsFolder() });
  // The two drivers differ in the type of a raw result, which nobody here looks at.
  const orm = typed as unknown as Orm;
  const guard = guarded(onError);
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => (closing ??= client.close());
  const query: Query = (statement, values) =>
    guard(async () => (await client.query<Row>(statement.text, [...values])).rows);
  return {
    kind: "pglite",
    run: (work) => guard(() => work(orm)),
    transaction: (work) => guard(() => orm.transaction((tx) => work(tx)), TRANSACTION_ATTEMPTS),
    query,
    bulk: (select) =>
      guard(async () => {
        const { blob } = await client.query(copyText(select, "'/dev/blob'"));
        if (blob === undefined) throw new Error("no answer to a COPY");
        return bulkRows(Buffer.from(await blob.arrayBuffer()));
      }),
    // One process, one connection: there is nothing to overtake.
    decide: query,
    queryTransaction: (work) =>
      guard(
        () =>
          client.transaction((tx) =>
            work(
              async (statement, values) => (await tx.query<Row>(statement.text, [...values])).rows,
            ),
          ),
        TRANSACTION_ATTEMPTS,
      ),
    ping: () => guard(async () => void (await client.query("select 1"))),
    backup: () =>
      guard(async () => {
        // What is in memory alone goes to the files first; whatever comes between is in their log.
        await client.query("checkpoint");
        return await client.dumpDataDir("gzip");
      }),
    close,
    [Symbol.asyncDispose]: close,
  };
}

async function openPostgres(url: string, onError: (error: unknown) => void): Promise<Database> {
  const pool = openPool(url, onError, {
    max: CONNECTIONS_MAX,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    statement_timeout: STATEMENT_TIMEOUT_MS,
    query_timeout: QUERY_TIMEOUT_MS,
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS,
  });
  const deciding = openPool(url, onError, {
    max: DECIDING_CONNECTIONS_MAX,
    connectionTimeoutMillis: DECIDING_CONNECT_TIMEOUT_MS,
    statement_timeout: DECIDING_STATEMENT_TIMEOUT_MS,
    query_timeout: DECIDING_QUERY_TIMEOUT_MS,
  });
  const end = async (): Promise<void> => {
    await Promise.all([pool.end(), deciding.end()]);
  };
  try {
    await migrateLocked(pool);
  } catch (error) {
    await end();
    throw error;
  }
  const orm = drizzlePostgres(pool, { schema }) as unknown as Orm; // As above.
  const guard = guarded(onError);
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => (closing ??= end());
  const ask = async (
    on: pg.Pool | pg.PoolClient,
    statement: Statement,
    values: readonly Value[],
  ): Promise<readonly Row[]> =>
    (await on.query<Row>({ name: statement.name, text: statement.text, values: [...values] })).rows;
  return {
    kind: "postgres",
    run: (work) => guard(() => work(orm)),
    transaction: (work) =>
      guard(
        () =>
          // Not Drizzle's own, which gives a connection back to the pool whatever became of it.
          inTransaction(pool, (client) =>
            work(drizzlePostgres(client, { schema }) as unknown as Orm),
          ),
        TRANSACTION_ATTEMPTS,
      ),
    query: (statement, values) => guard(() => ask(pool, statement, values)),
    bulk: (select) =>
      guard(() => onConnection(pool, (client) => client.query(new CopyOut(select)).finished)),
    decide: (statement, values) => guard(() => ask(deciding, statement, values)),
    queryTransaction: (work) =>
      guard(
        () =>
          inTransaction(pool, (client) =>
            work((statement, values) => ask(client, statement, values)),
          ),
        TRANSACTION_ATTEMPTS,
      ),
    ping: () => guard(async () => void (await deciding.query("select 1"))),
    close,
    [Symbol.asyncDispose]: close,
  };
}

function openPool(url: string, onError: (error: unknown) => void, bounds: pg.PoolConfig): pg.Pool {
  const pool = new pg.Pool({
    connectionString: url,
    idle_in_transaction_session_timeout: STATEMENT_TIMEOUT_MS,
    keepAlive: true,
    application_name: "memferry-relay",
    ...bounds,
  });
  // Without listeners a connection that the server drops would end the process: the pool's covers the
  // idle ones, the client's those in use, whose query then rejects as well.
  pool.on("error", (error) => onError(error));
  pool.on("connect", (client) => client.on("error", () => {}));
  return pool;
}

/**
 * A connection that was not heard to leave its transaction is never used again: whatever came next on it would be
 * answered, and taken back with the transaction later.
 */
async function inTransaction<T>(
  pool: pg.Pool,
  work: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect();
  let broken: Error | undefined;
  try {
    await client.query("begin");
    const result = await work(client);
    await client.query("commit");
    return result;
  } catch (error) {
    if (isOurs(error) || sqlState(error) !== undefined) {
      await client.query("rollback").catch((failure: unknown) => {
        broken = failure instanceof Error ? failure : new Error(String(failure));
      });
    } else {
      // No answer: to wait for another one would be in vain.
      broken = error instanceof Error ? error : new Error(String(error));
    }
    throw error;
  } finally {
    client.release(broken);
  }
}

/** As above, a connection that gave no answer is not used again. */
async function onConnection<T>(
  pool: pg.Pool,
  work: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect();
  let broken = false;
  try {
    return await work(client);
  } catch (error) {
    broken = sqlState(error) === undefined;
    throw error;
  } finally {
    client.release(broken);
  }
}

/** Migrates on one connection, under a lock that other relays wait for. */
async function migrateLocked(pool: pg.Pool): Promise<void> {
  const client = await pool.connect();
  try {
    // Another relay may take its time, and so may a migration.
    await client.query("set statement_timeout = 0");
    await client.query("select pg_advisory_lock($1)", [MIGRATION_LOCK]);
    await migratePostgres(drizzlePostgres(client, { schema }), {
      migrationsFolder: migrationsFolder(),
    });
  } finally {
    // Ending the connection releases the lock and drops the setting.
    client.release(true);
  }
}

/** Beside relay/ in the repository, one folder further up in the compiled package. */
function migrationsFolder(): string {
  for (const relative of ["../../migrations", "../../../migrations"]) {
    const folder = fileURLToPath(new URL(relative, import.meta.url));
    if (existsSync(`${folder}/meta/_journal.json`)) return folder;
  }
  throw new RelayError("INTERNAL", "the migrations are missing from this installation");
}

function guarded(onError: (error: unknown) => void) {
  return async <T>(work: () => Promise<T>, attempts = 1): Promise<T> => {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work();
      } catch (error) {
        if (isOurs(error)) throw error;
        if (attempt < attempts && isCollision(error)) continue;
        const translated = translate(error, "the database refused");
        onError(translated);
        throw translated;
      }
    }
  };
}

/** Thrown inside a transaction to leave it. */
function isOurs(error: unknown): boolean {
  return error instanceof RelayError || error instanceof ProtocolError;
}

/** The state code PostgreSQL gives its errors, wherever in the chain of causes it is. */
function sqlState(error: unknown): string | undefined {
  for (
    let cause = error, depth = 0;
    cause instanceof Error && depth < 5;
    cause = cause.cause, depth++
  ) {
    const code = systemCode(cause);
    if (code !== undefined && /^[0-9A-Z]{5}$/.test(code)) return code;
  }
  return undefined;
}

/** Serialization failure, deadlock. */
function isCollision(error: unknown): boolean {
  const state = sqlState(error);
  return state === "40001" || state === "40P01";
}

/** Classes of SQLSTATE that are our mistake, not the database's: repeating would not help. */
const OUR_MISTAKES = new Set(["21", "22", "23", "26", "34", "42"]);

function translate(error: unknown, doing: string): RelayError {
  if (error instanceof RelayError) return error;
  const state = sqlState(error);
  if (state !== undefined && OUR_MISTAKES.has(state.slice(0, 2))) {
    return new RelayError("INTERNAL", `${doing}: SQLSTATE ${state}`, { cause: error });
  }
  // The outermost message of Drizzle's holds the query and its parameters; the innermost says what is wrong.
  let root = error;
  while (root instanceof Error && root.cause instanceof Error) root = root.cause;
  // A connection refused on several addresses has a code and no message.
  const why = messageOf(root) || (systemCode(root) ?? "no reason given");
  return new RelayError("DATABASE_UNAVAILABLE", `${doing}: ${why}`, { cause: error });
}
