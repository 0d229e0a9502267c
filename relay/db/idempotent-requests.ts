/**
 * Requests that may be sent again, and what was answered the first time.
 *
 * @module
 */
import { and, count, eq, isNull, lt, sql } from "drizzle-orm";

import { limitError, type RelayLimits } from "../limits.ts";
import type { Database } from "./database.ts";
import { idempotentRequest } from "./schema.ts";

/** How long an answer is kept. */
const KEPT = sql`interval '24 hours'`;
/** A request that has no answer after this long has lost its relay. */
const UNDER_WAY = sql`interval '2 minutes'`;

export interface RequestName {
  readonly keyId: string;
  /** The `Idempotency-Key` header, and whose it is if not the API key's own. */
  readonly token: string;
  /** SHA-256 of method, path and body. */
  readonly requestHash: Uint8Array;
}

export type Begun =
  /** It is this caller's to carry out, and then to `finish` or `release`. */
  | { readonly kind: "new"; readonly createdAt: Date }
  | { readonly kind: "underWay" }
  | { readonly kind: "otherRequest" }
  | { readonly kind: "answered"; readonly status: number; readonly sealedAnswer: Uint8Array };

export interface IdempotentRequests {
  /** @throws RelayError `LIMIT_EXCEEDED` */
  begin(request: RequestName): Promise<Begun>;
  finish(
    request: RequestName,
    answer: {
      readonly createdAt: Date;
      readonly status: number;
      readonly sealedAnswer: Uint8Array;
    },
  ): Promise<void>;
  /** Nothing was done: the next request with this token is the first. */
  release(request: RequestName, createdAt: Date): Promise<void>;
  /** Forgets what is over. @returns How many were forgotten. */
  clear(): Promise<number>;
}

export function createIdempotentRequests(
  database: Database,
  limits: RelayLimits,
): IdempotentRequests {
  const named = ({ keyId, token }: RequestName) =>
    and(eq(idempotentRequest.keyId, keyId), eq(idempotentRequest.token, token));
  const over = sql`(${idempotentRequest.createdAt} < now() - ${KEPT}
    or (${idempotentRequest.status} is null and ${idempotentRequest.createdAt} < now() - ${UNDER_WAY}))`;
  /** Not one that took the token over meanwhile. */
  const begunAt = (request: RequestName, createdAt: Date) =>
    and(
      named(request),
      eq(idempotentRequest.createdAt, createdAt),
      isNull(idempotentRequest.status),
    );

  return {
    begin: (request) =>
      database.transaction(async (tx) => {
        const { keyId, token, requestHash } = request;
        await tx.delete(idempotentRequest).where(and(named(request), over));
        const [kept] = await tx
          .select({ count: count() })
          .from(idempotentRequest)
          .where(eq(idempotentRequest.keyId, keyId));
        const [made] =
          (kept?.count ?? 0) >= limits.idempotentRequests
            ? []
            : await tx
                .insert(idempotentRequest)
                .values({ keyId, token, requestHash })
                .onConflictDoNothing()
                .returning({ createdAt: idempotentRequest.createdAt });
        if (made !== undefined) return { kind: "new", createdAt: made.createdAt };
        const [row] = await tx.select().from(idempotentRequest).where(named(request));
        if (row === undefined) {
          const limit = limits.idempotentRequests;
          throw limitError(
            "LIMIT_EXCEEDED",
            { limitName: "idempotentRequests", limit, retryAfterS: 60 },
            `this API key has sent ${limit} requests with an Idempotency-Key in a day`,
          );
        }
        if (!sameBytes(row.requestHash, requestHash)) return { kind: "otherRequest" };
        if (row.status === null || row.sealedAnswer === null) return { kind: "underWay" };
        return { kind: "answered", status: row.status, sealedAnswer: row.sealedAnswer };
      }),

    async finish(request, { createdAt, status, sealedAnswer }) {
      await database.run((orm) =>
        orm
          .update(idempotentRequest)
          .set({ status, sealedAnswer })
          .where(begunAt(request, createdAt)),
      );
    },

    async release(request, createdAt) {
      await database.run((orm) => orm.delete(idempotentRequest).where(begunAt(request, createdAt)));
    },

    clear: () =>
      database.run(async (orm) => {
        const gone = await orm
          .delete(idempotentRequest)
          .where(lt(idempotentRequest.createdAt, sql`now() - ${KEPT}`))
          .returning({ keyId: idempotentRequest.keyId });
        return gone.length;
      }),
  };
}

/** Neither is a secret. */
function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}
