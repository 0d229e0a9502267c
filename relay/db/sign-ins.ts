/**
 * Who is signed in at the console: a cookie that stands for an API key, for some hours.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import { and, desc, eq, gt, inArray, lte, sql } from "drizzle-orm";

import { fromBase64Url, toBase64Url, toHex } from "../protocol/bytes.ts";
import { goodKey, touchKey, type Principal } from "./api-keys.ts";
import { addAudit, type Actor } from "./audit.ts";
import type { Database } from "./database.ts";
import { SIGN_IN_LIFETIME_MS, SIGN_INS_PER_KEY_MAX } from "./limits.ts";
import { apiKey, signIn } from "./schema.ts";
import { sha256 } from "./session-store.ts";

const TOKEN_BYTES = 32;
const TOKEN_PATTERN = /^[A-Za-z0-9_-]{43}$/;

export interface SignIn {
  readonly id: string;
  readonly expiresAt: Date;
}

export interface SignIns {
  /** @returns The cookie's value is nowhere else. */
  begin(keyId: string, by: Actor): Promise<SignIn & { readonly token: string }>;
  /** Whose it is, if it has not ended and the key is good. */
  authenticate(
    token: string,
  ): Promise<{ readonly principal: Principal; readonly signIn: SignIn } | undefined>;
  isValid(id: string): Promise<boolean>;
  /** Repeated calls do nothing. */
  end(id: string, by: Actor): Promise<void>;
  /** Forgets those that are over. */
  clear(): Promise<void>;
}

export function createSignIns(database: Database): SignIns {
  const lasting = and(gt(signIn.expiresAt, sql`now()`), goodKey);
  return {
    async begin(keyId, by) {
      const token = randomBytes(TOKEN_BYTES);
      const id = toHex(randomBytes(16));
      return await database.transaction(async (tx) => {
        // Held while they are counted.
        await tx.select({ id: apiKey.id }).from(apiKey).where(eq(apiKey.id, keyId)).for("update");
        const tooMany = await tx
          .select({ id: signIn.id })
          .from(signIn)
          .where(eq(signIn.keyId, keyId))
          .orderBy(desc(signIn.createdAt), desc(signIn.id))
          .offset(SIGN_INS_PER_KEY_MAX - 1);
        if (tooMany.length > 0) {
          await tx.delete(signIn).where(
            inArray(
              signIn.id,
              tooMany.map((row) => row.id),
            ),
          );
        }
        const [row] = await tx
          .insert(signIn)
          .values({
            id,
            keyId,
            tokenHash: sha256(token),
            expiresAt: sql`now() + ${SIGN_IN_LIFETIME_MS}::int * interval '1 millisecond'`,
          })
          .returning({ expiresAt: signIn.expiresAt });
        if (row === undefined) throw new Error("an inserted sign-in has no row");
        await addAudit(tx, by, { action: "signIn.begin", targetKind: "key", targetId: keyId });
        return { id, token: toBase64Url(token), expiresAt: row.expiresAt };
      });
    },

    async authenticate(token) {
      if (!TOKEN_PATTERN.test(token)) return undefined;
      // Looked up by its hash: how long that takes says nothing of the token.
      const [row] = await database.run((orm) =>
        orm
          .select({
            id: signIn.id,
            expiresAt: signIn.expiresAt,
            keyId: apiKey.id,
            projectId: apiKey.projectId,
            prefix: apiKey.prefix,
            scopes: apiKey.scopes,
          })
          .from(signIn)
          .innerJoin(apiKey, eq(apiKey.id, signIn.keyId))
          .where(and(eq(signIn.tokenHash, sha256(fromBase64Url(token))), lasting)),
      );
      if (row === undefined) return undefined;
      await touchKey(database, row.keyId);
      const { id, expiresAt, ...principal } = row;
      return { principal, signIn: { id, expiresAt } };
    },

    async isValid(id) {
      const rows = await database.run((orm) =>
        orm
          .select({ id: signIn.id })
          .from(signIn)
          .innerJoin(apiKey, eq(apiKey.id, signIn.keyId))
          .where(and(eq(signIn.id, id), lasting)),
      );
      return rows.length > 0;
    },

    async end(id, by) {
      await database.transaction(async (tx) => {
        const [gone] = await tx
          .delete(signIn)
          .where(eq(signIn.id, id))
          .returning({ keyId: signIn.keyId });
        if (gone === undefined) return;
        await addAudit(tx, by, { action: "signIn.end", targetKind: "key", targetId: gone.keyId });
      });
    },

    async clear() {
      await database.run((orm) => orm.delete(signIn).where(lte(signIn.expiresAt, sql`now()`)));
    },
  };
}
