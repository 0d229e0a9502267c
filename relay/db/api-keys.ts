/**
 * Projects and the keys that open them.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { randomBytes, timingSafeEqual } from "node:crypto";

import { and, eq, isNull, sql } from "drizzle-orm";

import { toBase64Url, toHex } from "../protocol/bytes.ts";
import type { Database } from "./database.ts";
import { API_SCOPES, apiKey, project, type ApiScope } from "./schema.ts";
import { sha256 } from "./session-store.ts";

const SECRET_BYTES = 32;
const PREFIX_BYTES = 6;
const KEY_PATTERN = /^mfk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})$/;
/** A key's last use is written at most this often. */
const LAST_USED_INTERVAL = sql`interval '1 minute'`;

export const DEFAULT_PROJECT = "default";

/** Who is asking, once a key was accepted. */
export interface Principal {
  readonly keyId: string;
  readonly projectId: string;
  /** The visible part of the key. */
  readonly prefix: string;
  readonly scopes: readonly ApiScope[];
}

export interface ApiKeys {
  /** The holder of a key that is known, not expired and not revoked. */
  authenticate(key: string): Promise<Principal | undefined>;
  /** The key itself is in the answer and nowhere else. */
  create(options: {
    readonly projectId: string;
    readonly name: string;
    readonly scopes: readonly ApiScope[];
    readonly expiresAt?: Date | undefined;
  }): Promise<{ readonly key: string; readonly keyId: string; readonly prefix: string }>;
  revoke(keyId: string): Promise<void>;
  /** Whether a key of an open stream is still good. */
  isValid(keyId: string): Promise<boolean>;
  /** The project of that name, made if it is not there. */
  project(name: string): Promise<string>;
  /** Whether the project has a key that is good for everything. */
  hasFullKey(projectId: string): Promise<boolean>;
}

const good = and(
  isNull(apiKey.revokedAt),
  sql`(${apiKey.expiresAt} is null or ${apiKey.expiresAt} > now())`,
);

export function createApiKeys(database: Database): ApiKeys {
  return {
    async authenticate(key) {
      const [, prefix, secret] = KEY_PATTERN.exec(key) ?? [];
      if (prefix === undefined || secret === undefined) return undefined;
      const [row] = await database.run((orm) =>
        orm
          .select()
          .from(apiKey)
          .where(and(eq(apiKey.prefix, prefix), good)),
      );
      const given = sha256(Buffer.from(secret, "base64url"));
      // Compared even if there is nothing to compare with, so that a wrong prefix takes as long.
      const same = timingSafeEqual(row?.secretHash ?? new Uint8Array(given.length), given);
      if (row === undefined || !same) return undefined;
      await database.run((orm) =>
        orm
          .update(apiKey)
          .set({ lastUsedAt: sql`now()` })
          .where(
            and(
              eq(apiKey.id, row.id),
              sql`(${apiKey.lastUsedAt} is null or ${apiKey.lastUsedAt} < now() - ${LAST_USED_INTERVAL})`,
            ),
          ),
      );
      return { keyId: row.id, projectId: row.projectId, prefix, scopes: row.scopes };
    },

    async create({ projectId, name, scopes, expiresAt }) {
      const keyId = toHex(randomBytes(16));
      const prefix = toHex(randomBytes(PREFIX_BYTES));
      const secret = randomBytes(SECRET_BYTES);
      await database.run((orm) =>
        orm.insert(apiKey).values({
          id: keyId,
          projectId,
          name,
          prefix,
          secretHash: sha256(secret),
          scopes: [...scopes],
          expiresAt: expiresAt ?? null,
        }),
      );
      return { key: `mfk_${prefix}_${toBase64Url(secret)}`, keyId, prefix };
    },

    async revoke(keyId) {
      await database.run((orm) =>
        orm
          .update(apiKey)
          .set({ revokedAt: sql`now()` })
          .where(and(eq(apiKey.id, keyId), isNull(apiKey.revokedAt))),
      );
    },

    async isValid(keyId) {
      const rows = await database.run((orm) =>
        orm
          .select({ id: apiKey.id })
          .from(apiKey)
          .where(and(eq(apiKey.id, keyId), good)),
      );
      return rows.length > 0;
    },

    async project(name) {
      return await database.transaction(async (tx) => {
        await tx
          .insert(project)
          .values({ id: toHex(randomBytes(16)), name })
          .onConflictDoNothing({ target: project.name });
        const [row] = await tx.select().from(project).where(eq(project.name, name));
        if (row === undefined) throw new Error(`the project ${name} vanished while it was made`);
        return row.id;
      });
    },

    async hasFullKey(projectId) {
      const rows = await database.run((orm) =>
        orm
          .select({ scopes: apiKey.scopes })
          .from(apiKey)
          .where(and(eq(apiKey.projectId, projectId), good)),
      );
      return rows.some((row) => API_SCOPES.every((scope) => row.scopes.includes(scope)));
    },
  };
}
