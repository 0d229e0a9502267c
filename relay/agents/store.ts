/**
 * What the relay keeps of its agents: who they are, what they report, and what they were told to do.
 *
 * An agent is known by its key, so queries here go by the peer's id and not by a project. What changes is written
 * with its event in one transaction.
 *
 * @module
 */
import { randomBytes } from "node:crypto";

import { and, asc, eq, exists, inArray, lt, ne, or, sql } from "drizzle-orm";

import { fromBase64Url, toHex } from "../protocol/bytes.ts";
import { addAudit } from "../db/audit.ts";
import type { Database, Orm } from "../db/database.ts";
import { redeemCode } from "../db/enrollments.ts";
import { PEER_SILENT_S } from "../db/limits.ts";
import { requireRoom } from "../db/project-limits.ts";
import { addProjectEvent } from "../db/project-events.ts";
import {
  enrollment,
  offeredRegion,
  peer,
  peerOrder,
  session,
  type OrderState,
} from "../db/schema.ts";
import type { RelayLimits } from "../limits.ts";
import type { LoginMessage, OrderStateMessage, ReportMessage } from "./messages.ts";

export type OrderRow = typeof peerOrder.$inferSelect;

/** Why a login is refused; the agent shows it. */
export type LoginProblem =
  | "ENROLLMENT_UNKNOWN"
  | "ENROLLMENT_USED"
  | "ENROLLMENT_EXPIRED"
  | "PEER_UNKNOWN"
  | "PEER_ELSEWHERE";

export interface LoggedIn {
  readonly projectId: string;
  readonly peerId: string;
  readonly name: string;
  /** The connection's, as the database knows it. */
  readonly connectionId: string;
}

/** An order that came to an end that was not success: its session is to end as well. */
export interface FailedOrder {
  readonly sessionId: string;
  readonly reason: string;
}

export interface AgentStore {
  /** The signature was checked. @throws RelayError `LIMIT_EXCEEDED` */
  login(login: LoginMessage, remoteAddress: string): Promise<LoggedIn | LoginProblem>;
  logout(agent: LoggedIn): Promise<void>;
  /** @returns Those of `agents` that are still who they say. */
  alive(agents: readonly LoggedIn[]): Promise<ReadonlySet<string>>;
  report(agent: LoggedIn, report: ReportMessage): Promise<void>;
  /** Orders of these peers in these states that can be begun, the oldest first. */
  openOrders(
    peerIds: readonly string[],
    states: readonly ("queued" | "running")[],
  ): Promise<readonly OrderRow[]>;
  /** @returns What has to be done because of it; undefined for an order that is not this agent's. */
  orderState(
    agent: LoggedIn,
    message: OrderStateMessage,
  ): Promise<
    | {
        readonly state: OrderState;
        readonly failed: FailedOrder | undefined;
        /** A peer whose order can begin now. */
        readonly ready: string | undefined;
      }
    | undefined
  >;
  /** Peers that were not heard of, and orders that nobody began in time or whose session is over. */
  sweep(): Promise<readonly FailedOrder[]>;
}

const OPEN_STATES: OrderState[] = ["queued", "running"];
const ORDERS_PER_SWEEP = 500;

export function createAgentStore(database: Database, limits: RelayLimits): AgentStore {
  return {
    login: (login, remoteAddress) =>
      database.transaction(async (tx) => {
        if (login.enrollment !== undefined) {
          const problem = await enroll(tx, login, login.enrollment, { remoteAddress, limits });
          if (problem !== undefined) return problem;
        }
        const connectionId = toHex(randomBytes(16));
        const [before] = await tx
          .select()
          .from(peer)
          .where(eq(peer.id, login.peerId))
          .for("update");
        if (before === undefined) return "PEER_UNKNOWN";
        await tx
          .update(peer)
          .set({ online: true, connectionId, lastSeenAt: sql`now()` })
          .where(eq(peer.id, login.peerId));
        const { projectId, name } = before;
        if (!before.online) await addPeerEvent(tx, before, "peer.online");
        return { projectId, peerId: login.peerId, name, connectionId };
      }),

    logout: (agent) =>
      database.transaction(async (tx) => {
        const [row] = await tx
          .update(peer)
          .set({ online: false, connectionId: null })
          .where(and(eq(peer.id, agent.peerId), eq(peer.connectionId, agent.connectionId)))
          .returning();
        if (row !== undefined) await addPeerEvent(tx, row, "peer.offline");
      }),

    async alive(agents) {
      if (agents.length === 0) return new Set();
      const rows = await database.run((orm) =>
        orm
          .update(peer)
          .set({ lastSeenAt: sql`now()` })
          .where(
            inArray(
              peer.connectionId,
              agents.map(({ connectionId }) => connectionId),
            ),
          )
          .returning({ connectionId: peer.connectionId }),
      );
      return new Set(rows.flatMap(({ connectionId }) => connectionId ?? []));
    },

    report: (agent, report) => database.transaction((tx) => keepReport(tx, agent, report)),

    async openOrders(peerIds, states) {
      if (peerIds.length === 0) return [];
      return await database.run((orm) =>
        orm
          .select()
          .from(peerOrder)
          .where(
            and(
              inArray(peerOrder.peerId, [...peerIds]),
              inArray(peerOrder.state, [...states]),
              // What is received waits for the secret that the seeder makes.
              or(
                sql`${peerOrder.kind} not in ('leech', 'mount')`,
                sql`${peerOrder.body} ? 'secret'`,
              ),
            ),
          )
          .orderBy(asc(peerOrder.createdAt), asc(peerOrder.id))
          .limit(ORDERS_PER_SWEEP),
      );
    },

    orderState: (agent, message) =>
      database.transaction((tx) => keepOrderState(tx, agent, message)),

    sweep: () =>
      database.transaction(async (tx) => {
        const silent = await tx
          .update(peer)
          .set({ online: false, connectionId: null })
          .where(
            and(
              eq(peer.online, true),
              lt(peer.lastSeenAt, sql`now() - ${PEER_SILENT_S} * interval '1 second'`),
            ),
          )
          .returning();
        for (const row of silent) await addPeerEvent(tx, row, "peer.offline");
        // First: what ends a session may be that its peers came too late.
        const expired = await tx
          .update(peerOrder)
          .set({
            state: "failed",
            problemCode: "ORDER_EXPIRED",
            problemMessage: "the peer did not begin it in time",
            ...ended,
          })
          .where(and(eq(peerOrder.state, "queued"), lt(peerOrder.expiresAt, sql`now()`)))
          .returning();
        for (const row of expired) await addOrderEvent(tx, row);
        const over = await tx
          .update(peerOrder)
          .set({
            state: "cancelled",
            problemCode: "SESSION_ENDED",
            problemMessage: "its session ended before it was begun",
            ...ended,
          })
          .where(
            and(
              eq(peerOrder.state, "queued"),
              exists(
                tx
                  .select({ one: sql`1` })
                  .from(session)
                  .where(
                    and(
                      eq(session.id, peerOrder.sessionId),
                      inArray(session.state, ["done", "cancelled", "failed"]),
                    ),
                  ),
              ),
            ),
          )
          .returning();
        for (const row of over) await addOrderEvent(tx, row);
        return expired.flatMap(failedOrder);
      }),
  };
}

const ended = { endedAt: sql`now()`, updatedAt: sql`now()` };

async function enroll(
  tx: Orm,
  { peerId }: LoginMessage,
  asked: NonNullable<LoginMessage["enrollment"]>,
  { remoteAddress, limits }: { readonly remoteAddress: string; readonly limits: RelayLimits },
): Promise<LoginProblem | undefined> {
  const code = await redeemCode(tx, fromBase64Url(asked.token), peerId);
  if (code === "unknown") return "ENROLLMENT_UNKNOWN";
  if (code === "used") return "ENROLLMENT_USED";
  if (code === "expired") return "ENROLLMENT_EXPIRED";
  // It was used for this very peer, whose answer may have been lost.
  if (code.usedAt !== null) return undefined;
  const { projectId } = code;
  const [known] = await tx.select({ id: peer.id }).from(peer).where(eq(peer.id, peerId));
  if (known !== undefined) return "PEER_ELSEWHERE";
  await requireRoom(tx, projectId, ["peers"], limits);
  const name = await freeName(tx, projectId, code.name === "" ? asked.name : code.name, peerId);
  await tx.insert(peer).values({
    id: peerId,
    projectId,
    name,
    labels: code.labels,
    sealingKey: fromBase64Url(asked.sealingKey),
    sealingKeySignature: fromBase64Url(asked.sealingKeySignature),
  });
  await tx
    .update(enrollment)
    .set({ usedAt: sql`now()`, peerId })
    .where(eq(enrollment.id, code.id));
  await addAudit(
    tx,
    { projectId, actor: `peer:${peerId}`, remoteAddress, requestId: "" },
    {
      action: "peer.enroll",
      targetKind: "peer",
      targetId: peerId,
      after: { name, enrollmentId: code.id },
    },
  );
  await addProjectEvent(tx, {
    projectId,
    type: "peer.enrolled",
    subjectKind: "peer",
    subjectId: peerId,
    data: { name },
  });
  return undefined;
}

/** Two hosts may be called alike: the second gets a piece of its key behind the name. */
async function freeName(tx: Orm, projectId: string, name: string, peerId: string) {
  const [taken] = await tx
    .select({ id: peer.id })
    .from(peer)
    .where(and(eq(peer.projectId, projectId), eq(peer.name, name)));
  return taken === undefined ? name : `${name.slice(0, 50)}-${peerId.slice(0, 8)}`;
}

async function keepReport(tx: Orm, agent: LoggedIn, report: ReportMessage): Promise<void> {
  const { peerId, projectId } = agent;
  const { host, zone, version, platform, kernel, natClass, diskFreeBytes } = report;
  const { capabilities, hooks, directories, exports, problems, regions } = report;
  const [row] = await tx
    .update(peer)
    .set({
      host,
      ...(zone === undefined ? {} : { zone }),
      peerVersion: version,
      platform,
      kernel,
      natClass,
      diskFreeBytes,
      capabilities,
      hooks,
      directories,
      exports,
      problems,
      lastSeenAt: sql`now()`,
      updatedAt: sql`now()`,
    })
    .where(and(eq(peer.id, peerId), eq(peer.connectionId, agent.connectionId)))
    .returning();
  if (row === undefined) return;
  const before = await tx.select().from(offeredRegion).where(eq(offeredRegion.peerId, peerId));
  const event = (type: string, name: string, bytes: number): Promise<number> =>
    addProjectEvent(tx, {
      projectId,
      type,
      subjectKind: "region",
      subjectId: `${peerId}/${name}`,
      data: { peerId, peerName: row.name, region: name, bytes },
    });
  for (const { name, bytes } of before) {
    if (regions.some((region) => region.name === name)) continue;
    await tx
      .delete(offeredRegion)
      .where(and(eq(offeredRegion.peerId, peerId), eq(offeredRegion.name, name)));
    await event("region.withdrawn", name, bytes);
  }
  for (const region of regions) {
    const { name, kind, bytes, chunkBytes } = region;
    const known = before.find((one) => one.name === name);
    if (known === undefined) {
      await tx.insert(offeredRegion).values({ peerId, name, kind, bytes, chunkBytes });
      await event("region.offered", name, bytes);
    } else if (known.bytes !== bytes || known.kind !== kind || known.chunkBytes !== chunkBytes) {
      await tx
        .update(offeredRegion)
        .set({ kind, bytes, chunkBytes, updatedAt: sql`now()` })
        .where(and(eq(offeredRegion.peerId, peerId), eq(offeredRegion.name, name)));
    }
  }
}

async function keepOrderState(
  tx: Orm,
  agent: LoggedIn,
  { id, state, problem, secret }: OrderStateMessage,
): ReturnType<AgentStore["orderState"]> {
  const [before] = await tx
    .select()
    .from(peerOrder)
    .where(and(eq(peerOrder.id, id), eq(peerOrder.peerId, agent.peerId)))
    .for("update");
  if (before === undefined) return undefined;
  let ready: string | undefined;
  if (secret !== undefined && before.kind === "seed" && before.sessionId !== null) {
    const [receiving] = await tx
      .select()
      .from(peerOrder)
      .where(
        and(
          eq(peerOrder.sessionId, before.sessionId),
          inArray(peerOrder.kind, ["leech", "mount"]),
          eq(peerOrder.state, "queued"),
          ne(peerOrder.id, id),
        ),
      )
      .for("update");
    // The first one counts: another would be for a channel that nobody has.
    if (receiving !== undefined && receiving.body["secret"] === undefined) {
      await tx
        .update(peerOrder)
        .set({ body: { ...receiving.body, secret } })
        .where(eq(peerOrder.id, receiving.id));
      ready = receiving.peerId;
    }
  }
  if (!OPEN_STATES.includes(before.state) || before.state === state) {
    return { state: before.state, failed: undefined, ready };
  }
  const [after] = await tx
    .update(peerOrder)
    .set({
      state,
      problemCode: problem?.code ?? "",
      problemMessage: problem?.message ?? "",
      updatedAt: sql`now()`,
      ...(state === "running" ? {} : ended),
    })
    .where(eq(peerOrder.id, id))
    .returning();
  if (after === undefined) throw new Error("a locked order is gone");
  await addOrderEvent(tx, after);
  const [failed] = state === "failed" || state === "cancelled" ? failedOrder(after) : [];
  return { state, failed, ready };
}

function failedOrder({ sessionId, problemMessage, state, kind }: OrderRow): FailedOrder[] {
  if (sessionId === null || kind === "cancel") return [];
  const who = kind === "seed" ? "source" : "destination";
  const reason = `the ${who}'s order ${state}${problemMessage === "" ? "" : `: ${problemMessage}`}`;
  return [{ sessionId, reason }];
}

async function addPeerEvent(
  tx: Orm,
  { projectId, id, name }: typeof peer.$inferSelect,
  type: "peer.online" | "peer.offline",
): Promise<void> {
  await addProjectEvent(tx, {
    projectId,
    type,
    subjectKind: "peer",
    subjectId: id,
    data: { name },
  });
}

export async function addOrderEvent(tx: Orm, row: OrderRow): Promise<void> {
  await addProjectEvent(tx, {
    projectId: row.projectId,
    type: `order.${row.state}`,
    subjectKind: "order",
    subjectId: row.id,
    data: {
      kind: row.kind,
      peerId: row.peerId,
      ...(row.sessionId === null ? {} : { sessionId: row.sessionId }),
      ...(row.problemCode === "" ? {} : { problem: row.problemCode }),
    },
  });
}
