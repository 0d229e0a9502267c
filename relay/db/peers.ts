/**
 * One project's peers and what they offer, as the API reads and changes them.
 *
 * @module
 */
import { and, asc, desc, eq, gt, lt, or, sql, type SQL } from "drizzle-orm";

import { RelayError } from "../errors.ts";
import { addAudit, type Actor } from "./audit.ts";
import type { Database, Orm } from "./database.ts";
import type { ListPosition } from "./enrollments.ts";
import { PEER_SILENT_S } from "./limits.ts";
import { addProjectEvent } from "./project-events.ts";
import { offeredRegion, peer } from "./schema.ts";

/** `online` as its relay last said, and that relay has been heard of since. */
export type PeerRow = typeof peer.$inferSelect;
export type OfferedRegionRow = typeof offeredRegion.$inferSelect & { readonly peerName: string };

export interface PeerChange {
  readonly name?: string | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
  readonly zone?: string | undefined;
}

export interface ProjectPeers {
  list(options: {
    readonly after?: ListPosition | undefined;
    readonly limit: number;
  }): Promise<readonly PeerRow[]>;
  get(id: string): Promise<PeerRow | undefined>;
  /** By its id or its name. */
  find(idOrName: string): Promise<PeerRow | undefined>;
  /**
   * @param require Throws unless the row is the one that the caller knows.
   * @throws RelayError `NOT_FOUND`; `STATE_CONFLICT` if another peer has the name
   */
  change(
    by: Actor,
    id: string,
    change: PeerChange,
    require: (row: PeerRow) => void,
  ): Promise<PeerRow>;
  /** @throws RelayError `NOT_FOUND` */
  revoke(by: Actor, id: string, require: (row: PeerRow) => void): Promise<void>;
  regions(options: {
    readonly peerId?: string | undefined;
    readonly after?: { readonly peerId: string; readonly name: string } | undefined;
    readonly limit: number;
  }): Promise<readonly OfferedRegionRow[]>;
  region(peerId: string, name: string): Promise<OfferedRegionRow | undefined>;
}

const silentSince = sql`now() - ${PEER_SILENT_S} * interval '1 second'`;
const isOnline = sql<boolean>`(${peer.online} and ${peer.lastSeenAt} > ${silentSince})`;

/** The one place where a query of peers gets its project. */
export function projectPeers(database: Database, projectId: string): ProjectPeers {
  const mine = eq(peer.projectId, projectId);

  const select = async (where: SQL | undefined, limit: number): Promise<readonly PeerRow[]> => {
    const rows = await database.run((orm) =>
      orm
        .select({ peer, isOnline })
        .from(peer)
        .where(and(mine, where))
        .orderBy(desc(peer.createdAt), desc(peer.id))
        .limit(limit),
    );
    return rows.map((row) => ({ ...row.peer, online: row.isOnline }));
  };

  const locked = async (tx: Orm, id: string): Promise<PeerRow> => {
    const [row] = await tx
      .select()
      .from(peer)
      .where(and(mine, eq(peer.id, id)))
      .for("update");
    if (row === undefined) throw new RelayError("NOT_FOUND", "there is no such peer");
    return row;
  };

  const selectRegions = async (
    where: SQL | undefined,
    limit: number,
  ): Promise<readonly OfferedRegionRow[]> => {
    const rows = await database.run((orm) =>
      orm
        .select({ region: offeredRegion, peerName: peer.name })
        .from(offeredRegion)
        .innerJoin(peer, eq(peer.id, offeredRegion.peerId))
        .where(and(mine, where))
        .orderBy(asc(offeredRegion.peerId), asc(offeredRegion.name))
        .limit(limit),
    );
    return rows.map(({ region, peerName }) => ({ ...region, peerName }));
  };

  return {
    list: ({ after, limit }) =>
      select(
        after === undefined
          ? undefined
          : or(
              lt(peer.createdAt, after.createdAt),
              and(eq(peer.createdAt, after.createdAt), lt(peer.id, after.id)),
            ),
        limit,
      ),
    get: async (id) => (await select(eq(peer.id, id), 1))[0],
    find: async (idOrName) =>
      (await select(or(eq(peer.id, idOrName), eq(peer.name, idOrName)), 1))[0],

    async change(by, id, change, require) {
      return await database.transaction(async (tx) => {
        const before = await locked(tx, id);
        require(before);
        const { name = before.name, labels = before.labels, zone = before.zone } = change;
        const [taken] = await tx
          .select({ id: peer.id })
          .from(peer)
          .where(and(mine, eq(peer.name, name)));
        if (taken !== undefined && taken.id !== id) {
          throw new RelayError("STATE_CONFLICT", `another peer of the project is called ${name}`);
        }
        const [row] = await tx
          .update(peer)
          .set({ name, labels, zone, version: before.version + 1, updatedAt: sql`now()` })
          .where(and(mine, eq(peer.id, id)))
          .returning();
        if (row === undefined) throw new Error("a locked peer is gone");
        await addAudit(tx, by, {
          action: "peer.update",
          targetKind: "peer",
          targetId: id,
          before: { name: before.name, labels: before.labels, zone: before.zone },
          after: { name, labels, zone },
        });
        await addProjectEvent(tx, {
          projectId,
          type: "peer.updated",
          subjectKind: "peer",
          subjectId: id,
          data: { name, zone },
        });
        return row;
      });
    },

    async revoke(by, id, require) {
      await database.transaction(async (tx) => {
        const row = await locked(tx, id);
        require(row);
        await tx.delete(peer).where(and(mine, eq(peer.id, id)));
        await addAudit(tx, by, {
          action: "peer.revoke",
          targetKind: "peer",
          targetId: id,
          before: { name: row.name, labels: row.labels, zone: row.zone },
        });
        await addProjectEvent(tx, {
          projectId,
          type: "peer.revoked",
          subjectKind: "peer",
          subjectId: id,
          data: { name: row.name },
        });
      });
    },

    regions: ({ peerId, after, limit }) =>
      selectRegions(
        and(
          peerId === undefined ? undefined : eq(offeredRegion.peerId, peerId),
          after === undefined
            ? undefined
            : or(
                gt(offeredRegion.peerId, after.peerId),
                and(eq(offeredRegion.peerId, after.peerId), gt(offeredRegion.name, after.name)),
              ),
        ),
        limit,
      ),
    region: async (peerId, name) =>
      (
        await selectRegions(and(eq(offeredRegion.peerId, peerId), eq(offeredRegion.name, name)), 1)
      )[0],
  };
}
