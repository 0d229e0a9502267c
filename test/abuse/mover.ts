/**
 * Two peers of one session that move data through a relay, as a process of their own: `node mover.ts`.
 *
 * Reads one JSON line on standard input (`MoverOptions`), and prints `{"event":"moved","bytes":n,"atMs":t}` four times a
 * second: what has arrived in all, and when that was. Ends when standard input does.
 *
 * @module
 */
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

import { dialLink } from "../../peer/net/dial.ts";
import { PeerIdentity } from "../../peer/net/peer-identity.ts";
import { RelayControl } from "../../peer/net/relay-control.ts";
import { relayOf } from "../../peer/net/relay-pins.ts";
import { decodeTicket } from "../../relay/protocol/ticket.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";

export interface MoverOptions {
  readonly tickets: readonly [string, string];
  /** 0: as fast as it goes. */
  readonly bytesPerS: number;
  readonly streams: number;
}

const FIRST_DATA_STREAM = 2;
const PIECE_BYTES = 64 * 1024;
const TICK_MS = 20;
const SAY_MS = 250;

async function joined(ticketText: string): Promise<RelayControl> {
  const ticket = decodeTicket(ticketText);
  return await RelayControl.join({
    ticket,
    identity: PeerIdentity.generate(),
    dial: (signal) => dialLink("websocket", { ...relayOf(ticket), signal }),
  });
}

let moved = 0;

async function receive(stream: ByteStream): Promise<void> {
  for (;;) {
    const piece = await stream.read();
    if (piece === null) return;
    moved += piece.length;
  }
}

/** Keeps to a clock: what could not be sent in time is not made up for. */
async function send(stream: ByteStream, bytesPerS: number): Promise<never> {
  const piece = new Uint8Array(PIECE_BYTES);
  for (;;) {
    if (bytesPerS === 0) {
      await stream.write(piece);
      continue;
    }
    for (let due = (bytesPerS * TICK_MS) / 1_000; due > 0; due -= PIECE_BYTES) {
      await stream.write(piece.subarray(0, Math.min(PIECE_BYTES, due)));
    }
    await sleep(TICK_MS);
  }
}

async function move({ tickets, bytesPerS, streams }: MoverOptions): Promise<void> {
  const [seeder, leecher] = await Promise.all(tickets.map(joined));
  const [from, to] = await Promise.all([seeder?.pairing(), leecher?.pairing()]);
  if (from === undefined || to === undefined) throw new Error("no pairing");
  const over: Promise<void>[] = [];
  for (let i = 0; i < streams; i++) {
    const index = FIRST_DATA_STREAM + i;
    const [out, into] = await Promise.all([from.openStream(index), to.openStream(index)]);
    over.push(receive(into), send(out, bytesPerS / streams));
  }
  console.log(JSON.stringify({ event: "moving" }));
  // The first that breaks ends it: nobody of these is to be cut off.
  await Promise.all(over);
}

if (import.meta.main) {
  const lines = createInterface({ input: process.stdin });
  lines.once("line", (line) => {
    // A test writes it, by its type.
    move(JSON.parse(line) as MoverOptions).catch((error: unknown) => {
      console.log(JSON.stringify({ event: "broken", reason: String(error) }));
      process.exit(1);
    });
  });
  setInterval(() => {
    console.log(JSON.stringify({ event: "moved", bytes: moved, atMs: Date.now() }));
  }, SAY_MS);
}
