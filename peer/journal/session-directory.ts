/**
 * Where a peer keeps what it needs to go on with a session: one directory per session and role.
 *
 * ```
 * STATE/ROLE-SESSION/setup           what does not change: ticket, keys, command line; holds secrets, mode 0600
 *                    journal         the record (`journal.ts`)
 *                    NAME.state      presence and hashes of a received region (native)
 *                    lock            the process that works with it
 * ```
 *
 * @module
 */
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { toHex } from "../../relay/protocol/bytes.ts";
import { messageOf, ProtocolError } from "../../relay/protocol/errors.ts";
import { ROLES, type Role } from "../../relay/protocol/ids.ts";
import { MigrationError } from "../errors.ts";
import { readSealed, replaceFile, seal, syncDirectory, type EnvelopeKind } from "./envelope.ts";
import type { Journal, LeecherRecord, SeederRecord } from "./journal.ts";
import { holderOf, takeLock } from "./process-lock.ts";
import { leecherCodec, seederCodec, setupCodec, type RecordCodec, type Setup } from "./records.ts";

/** After this long what is left of a session that is over is removed. */
const RECEIPT_AGE_MAX_MS = 30 * 24 * 3_600_000;

export class SessionDirectory {
  readonly path: string;
  readonly role: Role;
  readonly sessionId: Uint8Array;

  constructor(path: string, role: Role, sessionId: Uint8Array) {
    this.path = path;
    this.role = role;
    this.sessionId = sessionId;
  }

  /** Makes one. @throws MigrationError `JOURNAL_FAILED`, ProtocolError `TICKET_USED` if it is there */
  static async create(stateDirectory: string, setup: Setup): Promise<SessionDirectory> {
    const { role, sessionId } = setup.ticket;
    const directory = new SessionDirectory(
      join(stateDirectory, `${role}-${toHex(sessionId)}`),
      role,
      sessionId,
    );
    try {
      await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
      await mkdir(directory.path, { mode: 0o700 });
    } catch (cause) {
      // Somebody used this ticket here, and may still be at it: what is kept for that one must not change.
      if (cause instanceof Error && "code" in cause && cause.code === "EEXIST") {
        throw new ProtocolError(
          "TICKET_USED",
          `this ticket was used on this host already (\`memferry resume ${directory.id}\` goes on with it)`,
          { cause },
        );
      }
      throw failed(directory.path, cause);
    }
    try {
      await directory.#write("setup", setupCodec.encode(setup));
      await syncDirectory(stateDirectory);
    } catch (cause) {
      throw failed(directory.path, cause);
    }
    return directory;
  }

  /** All that are there, the newest first. Names that are not ours are left alone. */
  static async list(stateDirectory: string): Promise<SessionDirectory[]> {
    const names = await readdir(stateDirectory).catch(() => []);
    const found: { directory: SessionDirectory; changedMs: number }[] = [];
    for (const name of names) {
      const [role, id = ""] = name.split("-");
      const known = ROLES.find((candidate) => candidate === role);
      if (known === undefined || !/^[0-9a-f]{32}$/.test(id)) continue;
      const path = join(stateDirectory, name);
      const { mtimeMs } = await stat(path);
      const sessionId = Uint8Array.from(Buffer.from(id, "hex"));
      found.push({
        directory: new SessionDirectory(path, known, sessionId),
        changedMs: mtimeMs,
      });
    }
    found.sort((a, b) => b.changedMs - a.changedMs);
    return found.map(({ directory }) => directory);
  }

  /** Removes what is left of sessions that were over long ago. */
  static async prune(stateDirectory: string): Promise<void> {
    for (const directory of await SessionDirectory.list(stateDirectory)) {
      const { mtimeMs } = await stat(directory.path);
      if (Date.now() - mtimeMs < RECEIPT_AGE_MAX_MS) continue;
      // Somebody may still be served from it, and is found by it.
      if ((await holderOf(join(directory.path, "lock"))) !== undefined) continue;
      if (await directory.isOver().catch(() => false)) await directory.remove();
    }
  }

  get id(): string {
    return toHex(this.sessionId);
  }

  statePath(region: string): string {
    return join(this.path, `${encodeURIComponent(region)}.state`);
  }

  async setup(): Promise<Setup> {
    return await this.#read("setup", setupCodec);
  }

  async seederJournal(): Promise<Journal<SeederRecord>> {
    return await this.#journal(seederCodec);
  }

  async leecherJournal(): Promise<Journal<LeecherRecord>> {
    return await this.#journal(leecherCodec);
  }

  /** Whether nothing is left to go on with. @throws MigrationError `JOURNAL_INVALID` */
  async isOver(): Promise<boolean> {
    const journal = this.role === "seeder" ? this.seederJournal() : this.leecherJournal();
    const phase = (await journal).record?.phase;
    return ["released", "rolledBack", "done", "cancelled"].includes(phase ?? "");
  }

  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }

  /**
   * Keeps another process out. A supervised one is let in for its supervisor, which outlives it.
   *
   * @returns Lets others in again.
   * @throws MigrationError `RESUME_INVALID` if a process that lives has it
   */
  async lock(pid: number = process.pid): Promise<() => Promise<void>> {
    return await takeLock(join(this.path, "lock"), pid, (held) =>
      held === undefined
        ? new MigrationError("RESUME_INVALID", `${this.path} cannot be taken: try again`)
        : new MigrationError(
            "RESUME_INVALID",
            `process ${held} works on session ${this.id} already: end it first, or leave it to it`,
          ),
    );
  }

  async #journal<R>(codec: RecordCodec<R>): Promise<Journal<R>> {
    const there = await stat(join(this.path, "journal")).catch(() => undefined);
    let record: R | undefined;
    if (there !== undefined) record = await this.#read("journal", codec);
    let turn: Promise<void> = Promise.resolve();
    const journal: Journal<R> = {
      get record() {
        return record;
      },
      write: (next) => {
        const written = this.#writeAfter(turn, codec.encode(next)).then(() => {
          record = next;
        });
        turn = written.catch(() => undefined);
        return written;
      },
    };
    return journal;
  }

  async #writeAfter(turn: Promise<void>, body: unknown): Promise<void> {
    await turn;
    try {
      await this.#write("journal", body);
    } catch (cause) {
      throw failed(this.path, cause);
    }
  }

  async #write(kind: EnvelopeKind, body: unknown): Promise<void> {
    await replaceFile(join(this.path, kind), seal(kind, this.sessionId, body));
  }

  async #read<T>(kind: EnvelopeKind, codec: RecordCodec<T>): Promise<T> {
    const path = join(this.path, kind);
    const body = await readSealed(kind, this.sessionId, path);
    try {
      return codec.decode(body);
    } catch (cause) {
      throw new MigrationError("JOURNAL_INVALID", `${path} makes no sense: ${messageOf(cause)}`, {
        cause,
      });
    }
  }
}

function failed(path: string, cause: unknown): MigrationError {
  return new MigrationError(
    "JOURNAL_FAILED",
    `${path} cannot be written (${messageOf(cause)}): free space there, or give another --state-dir`,
    { cause },
  );
}
