/**
 * The keys that open a project: how one is made, and whose it is.
 *
 * What a project's holder may do with its keys is in project-keys.ts.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { randomBytes, timingSafeEqual } from "node:crypto";

import { and, eq, isNull, sql } from "drizzle-orm";

import { toBase64Url, toHex } from "../protocol/bytes.ts";
import type { Database } from "./database.ts";
import { apiKey, project, type ApiScope } from "./schema.ts";
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
  /** The relay's own way to a key, at its first start. The key itself is in the answer and nowhere else. */
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
  /** Whether anybody holds a key that is good for the relay itself. */
  hasOperatorKey(): Promise<boolean>;
}

/** Neither revoked nor expired. */
export const goodKey = and(
  isNull(apiKey.revokedAt),
  sql`(${apiKey.expiresAt} is null or ${apiKey.expiresAt} > now())`,
);

export const hasScope = (scope: ApiScope) =>
  sql`${apiKey.scopes} @> ${JSON.stringify([scope])}::jsonb`;

/** @returns The key as its holder gets it, and what is kept of it. */
export function newApiKey(): {
  readonly key: string;
  readonly id: string;
  readonly prefix: string;
  readonly secretHash: Uint8Array;
} {
  const prefix = toHex(randomBytes(PREFIX_BYTES));
  const secret = randomBytes(SECRET_BYTES);
  return {
    key: `mfk_${prefix}_${toBase64Url(secret)}`,
    id: toHex(randomBytes(16)),
    prefix,
    secretHash: sha256(secret),
  };
}

/** Notes that a key was used just now, for `lastUsedAt`. */
export async function touchKey(database: Database, keyId: string): Promise<void> {
  await database.run((orm) =>
    orm
      .update(apiKey)
      .set({ lastUsedAt: sql`now()` })
      .where(
        and(
          eq(apiKey.id, keyId),
          sql`(${apiKey.lastUsedAt} is null or ${apiKey.lastUsedAt} < now() - ${LAST_USED_INTERVAL})`,
        ),
      ),
  );
}

export function createApiKeys(database: Database): ApiKeys {
  return {
    async authenticate(key) {
      const [, prefix, secret] = KEY_PATTERN.exec(key) ?? [];
      if (prefix === undefined || secret === undefined) return undefined;
      const [row] = await database.run((orm) =>
        orm
          .select()
          .from(apiKey)
          .where(and(eq(apiKey.prefix, prefix), goodKey)),
      );
      const given = sha256(Buffer.from(secret, "base64url"));
      // Compared even if there is nothing to compare with, so that a wrong prefix takes as long.
      const same = timingSafeEqual(row?.secretHash ?? new Uint8Array(given.length), given);
      if (row === undefined || !same) return undefined;
      await touchKey(database, row.id);
      return { keyId: row.id, projectId: row.projectId, prefix, scopes: row.scopes };
    },

    async create({ projectId, name, scopes, expiresAt }) {
      const { key, id, prefix, secretHash } = newApiKey();
      await database.run((orm) =>
        orm.insert(apiKey).values({
          id,
          projectId,
          name,
          prefix,
          secretHash,
          scopes: [...scopes],
          expiresAt: expiresAt ?? null,
        }),
      );
      return { key, keyId: id, prefix };
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
          .where(and(eq(apiKey.id, keyId), goodKey)),
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

    async hasOperatorKey() {
      const rows = await database.run((orm) =>
        orm
          .select({ id: apiKey.id })
          .from(apiKey)
          .where(and(goodKey, hasScope("operator")))
          .limit(1),
      );
      return rows.length > 0;
    },
  };
}
