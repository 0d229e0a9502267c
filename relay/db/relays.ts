/**
 * The relays of a database: what each says of itself, and what an operator wants it to be.
 *
 * @module
 */
import { and, desc, eq, gt, lt, ne, sql } from "drizzle-orm";

import { addAudit, type Actor } from "./audit.ts";
import type { Database } from "./database.ts";
import { relayInstance, type RelayLoad, type RelayState } from "./schema.ts";

export type RelayRow = typeof relayInstance.$inferSelect;

/** Three heartbeats. */
const HEARD_LATELY = sql`now() - interval '15 seconds'`;
const ALTERNATES_MAX = 8;
/** A relay that was not heard of for this long is forgotten. */
const GONE = sql`now() - interval '1 hour'`;

export interface Heartbeat {
  readonly id: string;
  readonly url: string;
  readonly version: string;
  readonly name: string;
  readonly zone: string;
  readonly state: RelayState;
  readonly load: RelayLoad;
}

/** Says that a relay is there. @returns What an operator wants it to be. */
export async function beat(database: Database, heartbeat: Heartbeat): Promise<RelayState> {
  return await database.run(async (orm) => {
    const { state, load } = heartbeat;
    const [row] = await orm
      .insert(relayInstance)
      .values(heartbeat)
      .onConflictDoUpdate({
        target: relayInstance.id,
        set: { state, load, heartbeatAt: sql`now()` },
      })
      .returning({ wantedState: relayInstance.wantedState });
    return row?.wantedState ?? "active";
  });
}

export async function forgetRelays(database: Database): Promise<void> {
  await database.run((orm) => orm.delete(relayInstance).where(lt(relayInstance.heartbeatAt, GONE)));
}

/** It has gone down in order. */
export async function removeRelay(database: Database, id: string): Promise<void> {
  await database.run((orm) => orm.delete(relayInstance).where(eq(relayInstance.id, id)));
}

/** The last that was started first. */
export async function listRelays(
  database: Database,
  after: { readonly createdAt: Date; readonly id: string } | undefined,
  limit: number,
): Promise<readonly RelayRow[]> {
  return await database.run((orm) =>
    orm
      .select()
      .from(relayInstance)
      .where(
        after === undefined
          ? undefined
          : sql`(${relayInstance.startedAt}, ${relayInstance.id}) < (${after.createdAt.toISOString()}::timestamptz, ${after.id}::uuid)`,
      )
      .orderBy(desc(relayInstance.startedAt), desc(relayInstance.id))
      .limit(limit),
  );
}

/** Where others of the database's relays take sessions, as far as they were heard of lately. */
export async function activeUrls(database: Database, exceptId: string): Promise<readonly string[]> {
  const rows = await database.run((orm) =>
    orm
      .selectDistinct({ url: relayInstance.url })
      .from(relayInstance)
      .where(
        and(
          ne(relayInstance.id, exceptId),
          eq(relayInstance.state, "active"),
          gt(relayInstance.heartbeatAt, HEARD_LATELY),
        ),
      )
      .limit(ALTERNATES_MAX),
  );
  return rows.map(({ url }) => url);
}

export async function getRelay(database: Database, id: string): Promise<RelayRow | undefined> {
  const [row] = await database.run((orm) =>
    orm.select().from(relayInstance).where(eq(relayInstance.id, id)),
  );
  return row;
}

/** It hears of it with its next heartbeat. @returns Undefined if there is no such relay. */
export async function wantState(
  database: Database,
  id: string,
  wantedState: RelayState,
  by: Actor,
): Promise<RelayRow | undefined> {
  return await database.transaction(async (tx) => {
    const [before] = await tx.select().from(relayInstance).where(eq(relayInstance.id, id));
    const [after] = await tx
      .update(relayInstance)
      .set({ wantedState })
      .where(and(eq(relayInstance.id, id)))
      .returning();
    if (before === undefined || after === undefined) return undefined;
    await addAudit(tx, by, {
      action: wantedState === "draining" ? "relay.drain" : "relay.undrain",
      targetKind: "relay",
      targetId: id,
      before: { wantedState: before.wantedState },
      after: { wantedState },
    });
    return after;
  });
}
