/**
 * A migration between two enrolled peers: its sessions, and the orders that both peers get, in one transaction.
 *
 * @module
 */
import { RelayError } from "../errors.ts";
import { sealToken } from "../agents/seal.ts";
import type { RelayLimits } from "../limits.ts";
import {
  sealedToText,
  type LeechOrder,
  type OrderedMode,
  type OrderPeer,
  type SeedOrder,
} from "../protocol/agent.ts";
import { toBase64Url } from "../protocol/bytes.ts";
import type { Role } from "../protocol/ids.ts";
import type { Actor } from "./audit.ts";
import type { Database, Orm } from "./database.ts";
import { fromHex } from "./hex.ts";
import { createMigration } from "./migrations.ts";
import { addOrder, type OrderRow } from "./orders.ts";
import type { OfferedRegionRow, PeerRow } from "./peers.ts";
import type { CreatedRow } from "./sessions.ts";

/** An order that is begun at the last moment still needs its ticket to join. */
const JOIN_GRACE_MS = 60_000;

export interface OrderedMigration {
  readonly by: Actor;
  readonly createdBy: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly consistency: "all" | "each";
  readonly sources: readonly { readonly peer: PeerRow; readonly region: OfferedRegionRow }[];
  readonly to: PeerRow;
  readonly orderTtlMs: number;
  readonly mode: OrderedMode;
  readonly finalize: string;
  readonly downtimeBudgetMs?: number | undefined;
  readonly directory?: string | undefined;
  readonly export?: string | undefined;
  readonly hooks: Readonly<
    Partial<Record<"suspend" | "rollback" | "release" | "resume", string | undefined>>
  >;
  readonly bounds: RelayLimits;
}

/** @throws RelayError `LIMIT_EXCEEDED` */
export async function orderMigration(
  database: Database,
  projectId: string,
  options: OrderedMigration,
): Promise<{
  readonly id: string;
  readonly sessionIds: readonly string[];
  readonly orders: readonly OrderRow[];
}> {
  const { sources, to, mode, orderTtlMs, by, createdBy, name, labels, bounds } = options;
  let orders: OrderRow[] = [];
  const made = await createMigration(database, projectId, {
    by,
    createdBy,
    name,
    labels,
    bounds,
    policy: { consistency: options.consistency },
    sessions: sources.map(({ peer, region }) => ({
      name: region.name,
      labels,
      mode: mode === "precopy" ? "precopy" : "live",
      limits: {},
      ticketLifetimeMs: orderTtlMs + JOIN_GRACE_MS,
      seederPeerId: peer.id,
      leecherPeerId: to.id,
    })),
    alongside: async (tx, { sessions }) => {
      // Done again from the start if it collided.
      orders = [];
      for (const [i, source] of sources.entries()) {
        const session = sessions[i];
        if (session === undefined) throw new RelayError("INTERNAL", "a session was not made");
        orders.push(...(await ordersFor(tx, projectId, options, source, session)));
      }
    },
  });
  return { id: made.id, sessionIds: made.sessions.map(({ id }) => id), orders };
}

async function ordersFor(
  tx: Orm,
  projectId: string,
  options: OrderedMigration,
  source: OrderedMigration["sources"][number],
  session: CreatedRow,
): Promise<OrderRow[]> {
  const { to, orderTtlMs, mode, finalize, downtimeBudgetMs, hooks } = options;
  const { suspend, rollback, release, resume } = hooks;
  const token = async (role: Role, peer: PeerRow) =>
    sealedToText(
      await sealToken(peer, {
        sessionId: fromHex(session.id),
        role,
        token: session.tickets[role].token,
      }),
    );
  const seed: SeedOrder = {
    sessionId: session.id,
    token: await token("seeder", source.peer),
    region: source.region.name,
    to: orderPeer(to),
    hooks: { suspend, rollback, release },
  };
  const leech: LeechOrder = {
    sessionId: session.id,
    token: await token("leecher", to),
    from: orderPeer(source.peer),
    region: source.region.name,
    bytes: source.region.bytes,
    directory: options.directory,
    export: options.export,
    mode,
    finalize,
    downtimeBudgetMs,
    hooks: { resume },
  };
  const common = { projectId, sessionId: session.id, lifetimeMs: orderTtlMs };
  const kind = mode === "postcopy" ? "mount" : "leech";
  return [
    await addOrder(tx, { ...common, peerId: source.peer.id, kind: "seed", body: seed }),
    await addOrder(tx, { ...common, peerId: to.id, kind, body: leech }),
  ];
}

function orderPeer({ id, sealingKey, sealingKeySignature }: PeerRow): OrderPeer {
  return {
    id,
    sealingKey: toBase64Url(sealingKey),
    sealingKeySignature: toBase64Url(sealingKeySignature),
  };
}
