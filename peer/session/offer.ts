/**
 * A new session at the relay, with a ticket for each side.
 *
 * @module
 */
import { randomBytes } from "node:crypto";
import { TICKET_SECRET_BYTES } from "../../relay/protocol/ids.ts";
import { encodeTicket, type Ticket } from "../../relay/protocol/ticket.ts";
import { ApiClient, type RelayAccess } from "../net/api-client.ts";

export interface NewSession {
  readonly access: RelayAccess;
  /** Of the regions together, as the relay shows it. */
  readonly name: string;
  readonly ticketTtlMs: number;
}

export interface Offer {
  readonly ticket: Ticket;
  /** What is to be brought to the destination, out of band. */
  readonly leecherTicket: string;
}

/** @throws LinkError, ApiError */
export async function createOffer({ access, name, ticketTtlMs }: NewSession): Promise<Offer> {
  const created = await new ApiClient(access).createSession({ name, ticketTtlMs });
  const common = {
    ...created.relay,
    sessionId: created.id,
    secret: randomBytes(TICKET_SECRET_BYTES),
  };
  return {
    ticket: { ...common, role: "seeder", token: created.seederToken },
    leecherTicket: encodeTicket({ ...common, role: "leecher", token: created.leecherToken }),
  };
}
