/**
 * `PATH.memferry`: what `memferry leech --resume` needs besides the region's file.
 *
 * It holds the session's secret and this peer's key, so its mode is 0600. It is written when a leecher stops after
 * the commit and deleted when the migration is done.
 *
 * @module
 */
import { open, readFile, rename, rm } from "node:fs/promises";
import { fromBase64Url, toBase64Url } from "../../relay/protocol/bytes.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { decodeTicket, encodeTicket, type Ticket } from "../../relay/protocol/ticket.ts";
import { MigrationError } from "../errors.ts";
import {
  decodeSnapshot,
  encodeSnapshot,
  type LeecherSnapshot,
} from "../migration/leecher-snapshot.ts";
import { PeerIdentity } from "../net/peer-identity.ts";

export interface ResumeState {
  readonly ticket: Ticket;
  readonly identity: PeerIdentity;
  readonly snapshot: LeecherSnapshot;
}

interface Header {
  readonly ticket: string;
  readonly privateKey: string;
  readonly publicKey: string;
}

const HEADER_BYTES_MAX = 16 * 1024;

export function resumePath(file: string): string {
  return `${file}.memferry`;
}

/** One line of JSON, then the snapshot. Durable before it has its name. */
export async function saveResumeState(file: string, state: ResumeState): Promise<void> {
  const header: Header = {
    ticket: encodeTicket(state.ticket),
    privateKey: toBase64Url(state.identity.toPkcs8()),
    publicKey: toBase64Url(state.identity.publicKey),
  };
  const path = resumePath(file);
  const temporary = `${path}.tmp`;
  await rm(temporary, { force: true });
  const handle = await open(temporary, "wx", 0o600);
  try {
    await handle.writeFile(`${JSON.stringify(header)}\n`);
    await handle.writeFile(encodeSnapshot(state.snapshot));
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
}

/** @throws MigrationError `RESUME_INVALID` */
export async function readResumeState(file: string): Promise<ResumeState> {
  const path = resumePath(file);
  let bytes;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    throw new MigrationError(
      "RESUME_INVALID",
      `${path} cannot be read (${messageOf(cause)}): without it there is nothing to go on with`,
      { cause },
    );
  }
  try {
    const end = bytes.subarray(0, HEADER_BYTES_MAX).indexOf("\n");
    const header: unknown = JSON.parse(bytes.subarray(0, end).toString("utf8"));
    const { ticket, privateKey, publicKey } = checked(header);
    return {
      ticket: decodeTicket(ticket),
      identity: PeerIdentity.fromPkcs8(fromBase64Url(privateKey), fromBase64Url(publicKey)),
      snapshot: decodeSnapshot(bytes.subarray(end + 1)),
    };
  } catch (cause) {
    throw new MigrationError(
      "RESUME_INVALID",
      `${path} is damaged: the chunks that are missing in ${file} are only at the source`,
      { cause },
    );
  }
}

export async function dropResumeState(file: string): Promise<void> {
  await rm(resumePath(file), { force: true });
}

function checked(value: unknown): Header {
  if (typeof value !== "object" || value === null) throw new Error("no header");
  const fields = new Map(Object.entries(value));
  const text = (name: string): string => {
    const field: unknown = fields.get(name);
    if (typeof field !== "string") throw new Error(`no ${name}`);
    return field;
  };
  return { ticket: text("ticket"), privateKey: text("privateKey"), publicKey: text("publicKey") };
}
