/**
 * The demo's database: numbered rows, each with a checksum over all of itself.
 *
 * Plain SQLite. Whoever uses this module has a path and nothing else; where the file lives is somebody
 * else's business.
 *
 * @module
 */
import { hash, randomBytes } from "node:crypto";
import { DatabaseSync, type StatementSync } from "node:sqlite";

import { PAGE_BYTES } from "./ledger-layout.ts";

const LOCK_WAIT_MS = 30_000;

const SCHEMA = `
  CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    checksum BLOB NOT NULL,
    payload BLOB NOT NULL
  )`;

export interface Row {
  readonly id: number;
  /** How many times the row was rewritten. */
  readonly version: number;
  readonly checksum: Uint8Array;
  readonly payload: Uint8Array;
}

/** SHA-256 over number, version and payload: neither another row nor an older version passes for this one. */
export function checksumOf(row: Pick<Row, "id" | "version" | "payload">): Uint8Array {
  const head = Buffer.alloc(16);
  head.writeBigInt64LE(BigInt(row.id), 0);
  head.writeBigInt64LE(BigInt(row.version), 8);
  return hash("sha256", Buffer.concat([head, row.payload]), "buffer");
}

export function isWhole(row: Row): boolean {
  return Buffer.compare(checksumOf(row), row.checksum) === 0;
}

export class Ledger {
  readonly #database: DatabaseSync;
  readonly #insert: StatementSync;
  readonly #update: StatementSync;
  readonly #select: StatementSync;

  private constructor(database: DatabaseSync) {
    this.#database = database;
    this.#insert = database.prepare(
      "INSERT INTO ledger (id, version, checksum, payload) VALUES (?, ?, ?, ?)",
    );
    this.#update = database.prepare(
      "UPDATE ledger SET version = ?, checksum = ?, payload = ? WHERE id = ?",
    );
    this.#select = database.prepare(
      "SELECT id, version, checksum, payload FROM ledger WHERE id = ?",
    );
  }

  /** A new database. Nobody else sees it yet, so nothing is synced before `close`. */
  static create(path: string): Ledger {
    const database = new DatabaseSync(path);
    database.exec(`PRAGMA page_size = ${PAGE_BYTES}`);
    database.exec("PRAGMA journal_mode = MEMORY");
    database.exec("PRAGMA synchronous = OFF");
    database.exec(SCHEMA);
    return new Ledger(database);
  }

  /**
   * One that exists, for writing: each commit is synced. The rollback journal stays in memory, because the
   * folder beside the file may have room for nothing else.
   *
   * @param bytesMax The file never grows beyond this; a commit that would make it is refused.
   */
  static open(path: string, bytesMax: number): Ledger {
    // Somebody who looks into the database meanwhile holds a lock for as long as the query runs.
    const database = new DatabaseSync(path, { timeout: LOCK_WAIT_MS });
    database.exec("PRAGMA journal_mode = MEMORY");
    database.exec("PRAGMA synchronous = FULL");
    database.exec(`PRAGMA max_page_count = ${Math.floor(bytesMax / PAGE_BYTES)}`);
    return new Ledger(database);
  }

  /** Bytes that SQLite uses; the file may be longer. */
  get bytes(): number {
    return this.#number("PRAGMA page_count") * PAGE_BYTES;
  }

  get lastId(): number {
    return this.#number("SELECT coalesce(max(id), 0) FROM ledger");
  }

  /** @returns What `work` returned, once SQLite has committed it. */
  transaction<T>(work: () => T): T {
    this.#database.exec("BEGIN IMMEDIATE");
    try {
      const result = work();
      this.#database.exec("COMMIT");
      return result;
    } catch (error) {
      // SQLite has rolled some failures back by itself, and says so if asked again.
      if (this.#database.isTransaction) this.#database.exec("ROLLBACK");
      throw error;
    }
  }

  insert(id: number, payloadBytes: number): void {
    const payload = randomBytes(payloadBytes);
    this.#insert.run(id, 0, checksumOf({ id, version: 0, payload }), payload);
  }

  /**
   * Gives a row new content of the same length.
   *
   * @returns Its new version.
   * @throws Error if what is there does not match its checksum.
   */
  rewrite(id: number): number {
    // The columns are those of the statement, in the types that the schema stores.
    const row = this.#select.get(id) as Row | undefined;
    if (row === undefined) throw new Error(`row ${id} is gone`);
    if (!isWhole(row)) throw new Error(`row ${id} does not match its checksum`);
    const version = row.version + 1;
    const payload = randomBytes(row.payload.length);
    this.#update.run(version, checksumOf({ id, version, payload }), payload, id);
    return version;
  }

  close(): void {
    this.#database.close();
  }

  #number(sql: string): number {
    const row = this.#database.prepare(sql).get() ?? {};
    return Number(Object.values(row)[0]);
  }
}

/** Reads a database from one end to the other, and asks SQLite what it thinks of it. */
export function inspect(path: string, onRow: (row: Row) => void): { readonly integrity: string } {
  const database = new DatabaseSync(path, { readOnly: true });
  try {
    const rows = database.prepare("SELECT id, version, checksum, payload FROM ledger").iterate();
    // As in `rewrite`: the columns are those of the statement.
    for (const row of rows) onRow(row as unknown as Row);
    const verdicts = database.prepare("PRAGMA integrity_check(5)").all();
    return { integrity: verdicts.map((verdict) => String(Object.values(verdict)[0])).join("; ") };
  } catch (error) {
    // What SQLite cannot even read is a verdict, too.
    return { integrity: error instanceof Error ? error.message : String(error) };
  } finally {
    database.close();
  }
}

/** SQLite's result code for a database that may not grow further. */
const SQLITE_FULL = 13;

export function isFull(error: unknown): boolean {
  return error instanceof Error && "errcode" in error && error.errcode === SQLITE_FULL;
}
