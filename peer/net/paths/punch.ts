/**
 * Finds a pair of addresses between which datagrams pass both ways, by sending from both sides at once until the NATs
 * in between let the other side's in.
 *
 * ```
 * leecher                            seeder
 *  probe 1 ──────────────▶ (dropped by the seeder's NAT, but opens the leecher's)
 *          ◀────────────── probe 2
 *  answer 2 ─────────────▶
 *  probe 3 ──────────────▶
 *          ◀────────────── answer 3        this pair works: both ways, round trip known
 *  nominate ─────────────▶
 *          ◀────────────── nominated       both use it
 * ```
 *
 * Every datagram is authenticated with the attempt's key and says which side sent it, so nobody else can answer for a
 * peer, or send one its own probes back. Nothing is larger than 32 bytes, and at most a few hundred are sent.
 *
 * @module
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { Role } from "../../../relay/protocol/ids.ts";
import type { Candidate } from "./candidate.ts";
import { isForbiddenAddress } from "./candidates.ts";
import type { DatagramSocket, SocketAddress } from "./datagram.ts";
import { CANDIDATES_MAX } from "./limits.ts";

const MAGIC = [0xd6, 0x4d, 0x46, 0x01];
const MAC_BYTES = 16;
const ID_BYTES = 8;
const MAC_AT = MAGIC.length + 2 + ID_BYTES;
const PROBE_BYTES = MAC_AT + MAC_BYTES;

const PROBE_INTERVAL_MS = 50;
const PUNCH_DEADLINE_MS = 5_000;
/** Addresses that only the other side's datagrams told us: what its NAT made up for us. */
const LEARNT_MAX = 4;
/** After the first pair works, how long a better one is waited for. */
const BETTER_PAIR_MS = 60;
const NOMINATE_MS = 2_000;
/** Probes under way that an answer may still come for. */
const PENDING_MAX = 512;

const KINDS = ["probe", "answer", "nominate", "nominated"] as const;
type Kind = (typeof KINDS)[number];

/** One datagram of a punch. */
export interface Probe {
  readonly kind: Kind;
  readonly from: Role;
  readonly id: Uint8Array;
}

export interface PunchOptions {
  readonly role: Role;
  /** 32 bytes, of this attempt only. */
  readonly key: Uint8Array;
  readonly socket: DatagramSocket;
  readonly candidates: readonly Candidate[];
  readonly signal: AbortSignal;
}

export interface Punched {
  readonly remote: SocketAddress;
  readonly rttMs: number;
}

/** Ranks pairs that work: what needs no NAT first, then what is faster. */
interface Pair extends Punched {
  readonly host: boolean;
}

/** @returns `undefined` if no pair worked within 5 s. @throws the signal's reason */
export function punch(options: PunchOptions): Promise<Punched | undefined> {
  options.signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const one = new Punch(options, (result) => {
      options.signal.removeEventListener("abort", onAbort);
      resolve(result);
    });
    const onAbort = (): void => {
      one.stop();
      reject(options.signal.reason);
    };
    options.signal.addEventListener("abort", onAbort, { once: true });
    one.start();
  });
}

class Punch {
  readonly #options: PunchOptions;
  readonly #finish: (result: Punched | undefined) => void;
  readonly #targets: Candidate[];
  #learnt = 0;
  readonly #pending = new Map<string, { readonly sentAtMs: number }>();
  #best: Pair | undefined;
  #chosen: Pair | undefined;
  #probing: ReturnType<typeof setInterval> | undefined;
  #choosing: ReturnType<typeof setTimeout> | undefined;
  #deadline: ReturnType<typeof setTimeout> | undefined;
  #over = false;

  constructor(options: PunchOptions, finish: (result: Punched | undefined) => void) {
    this.#options = options;
    this.#finish = finish;
    // The other peer is known, but it may have been told to aim us at somebody.
    const allowed = options.candidates.filter(({ address }) => !isForbiddenAddress(address));
    this.#targets = allowed.slice(0, CANDIDATES_MAX);
  }

  start(): void {
    this.#options.socket.onDatagram = (bytes, from) => this.#hear(bytes, from);
    this.#deadline = setTimeout(() => this.#end(undefined), PUNCH_DEADLINE_MS);
    this.#probing = setInterval(() => this.#probeAll(), PROBE_INTERVAL_MS);
    this.#probeAll();
  }

  stop(): void {
    this.#over = true;
    clearInterval(this.#probing);
    clearTimeout(this.#choosing);
    clearTimeout(this.#deadline);
  }

  #end(result: Punched | undefined): void {
    if (this.#over) return;
    this.stop();
    this.#finish(result);
  }

  #probeAll(): void {
    if (this.#chosen !== undefined) {
      this.#send("nominate", randomBytes(ID_BYTES), this.#chosen.remote);
      return;
    }
    for (const target of this.#targets) {
      const id = randomBytes(ID_BYTES);
      if (this.#pending.size >= PENDING_MAX) this.#pending.delete(first(this.#pending));
      this.#pending.set(id.toString("hex"), { sentAtMs: performance.now() });
      this.#send("probe", id, target);
    }
  }

  #hear(bytes: Uint8Array, from: SocketAddress): void {
    const message = openProbe(bytes, this.#options.key);
    if (message === undefined || message.from === this.#options.role) return;
    // Its sender's address is not authenticated, and what is sent back goes there.
    if (isForbiddenAddress(from.address)) return;
    switch (message.kind) {
      case "probe":
        this.#send("answer", message.id, from);
        this.#learn(from);
        return;
      case "answer": {
        const sent = this.#pending.get(Buffer.from(message.id).toString("hex"));
        if (sent !== undefined) this.#works(from, performance.now() - sent.sentAtMs);
        return;
      }
      case "nominate":
        // Also when this side has finished: the answer may have been lost.
        if (this.#options.role !== "seeder") return;
        this.#send("nominated", message.id, from);
        this.#end({ remote: from, rttMs: this.#best?.rttMs ?? PUNCH_DEADLINE_MS / 10 });
        return;
      case "nominated":
        if (this.#chosen !== undefined) this.#end(this.#chosen);
    }
  }

  /** The other side came from an address that nobody named. */
  #learn(from: SocketAddress): void {
    if (this.#targets.some((one) => same(one, from)) || this.#learnt >= LEARNT_MAX) return;
    this.#learnt++;
    this.#targets.push({ ...from, kind: "reflexive" });
  }

  #works(from: SocketAddress, rttMs: number): void {
    if (this.#chosen !== undefined) return;
    const known = this.#options.candidates.find((one) => same(one, from));
    const pair = { remote: from, rttMs, host: known?.kind === "host" };
    const best = this.#best;
    const better =
      best === undefined || (pair.host === best.host ? pair.rttMs < best.rttMs : pair.host);
    if (better) this.#best = pair;
    if (this.#options.role === "leecher") {
      this.#choosing ??= setTimeout(() => this.#nominate(), BETTER_PAIR_MS);
    }
  }

  /** The leecher decides which pair it is. */
  #nominate(): void {
    this.#chosen = this.#best;
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#end(undefined), NOMINATE_MS);
    this.#probeAll();
  }

  #send(kind: Kind, id: Uint8Array, to: SocketAddress): void {
    const { role, key, socket } = this.#options;
    socket.send(sealProbe({ kind, from: role, id }, key), to);
  }
}

export function sealProbe({ kind, from, id }: Probe, key: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(PROBE_BYTES);
  bytes.set([...MAGIC, KINDS.indexOf(kind), from === "seeder" ? 1 : 2]);
  bytes.set(id, MAGIC.length + 2);
  bytes.set(macOf(bytes, key), MAC_AT);
  return bytes;
}

/** @returns `undefined` for whatever is not of the other peer, or of this attempt. */
export function openProbe(bytes: Uint8Array, key: Uint8Array): Probe | undefined {
  if (bytes.length !== PROBE_BYTES || !MAGIC.every((byte, i) => bytes[i] === byte)) {
    return undefined;
  }
  if (!timingSafeEqual(macOf(bytes, key), bytes.subarray(MAC_AT))) return undefined;
  const kind = KINDS[bytes[MAGIC.length] ?? 0];
  const sender = bytes[MAGIC.length + 1];
  if (kind === undefined || (sender !== 1 && sender !== 2)) return undefined;
  return {
    kind,
    from: sender === 1 ? "seeder" : "leecher",
    id: bytes.slice(MAGIC.length + 2, MAC_AT),
  };
}

function macOf(bytes: Uint8Array, key: Uint8Array): Uint8Array {
  return createHmac("sha256", key)
    .update(bytes.subarray(0, MAC_AT))
    .digest()
    .subarray(0, MAC_BYTES);
}

function same(a: SocketAddress, b: SocketAddress): boolean {
  return a.address === b.address && a.port === b.port;
}

function first(map: ReadonlyMap<string, unknown>): string {
  return map.keys().next().value ?? "";
}
