/**
 * Who may pass bytes on now: rates of sessions and projects, and a fair part for each where several want more than
 * there is.
 *
 * A stream asks before it passes a piece on; while it waits it is not read, so its sender waits too and nothing is
 * dropped. Rates are paced (a generic cell rate algorithm). What is left is shared by deficit round robin
 * (Shreedhar and Varghese, 1996): in each turn every active session may pass its part of the turn's bytes, by the
 * weight of its project over the sessions of that project that are active. A turn is one turn of the event loop, so
 * that projects share the CPU and not the one with most streams takes it; with a rate for the whole relay it is some
 * milliseconds, and what one leaves of its part is there for the others in the next.
 *
 * @module
 */

/** A turn of the event loop passes this much on, or more if many are active. */
const TURN_BYTES = 2 * 1024 * 1024;
/** What each may pass on at least in a turn, before weights. */
const FLOW_TURN_BYTES = 64 * 1024;
/** Passing a piece on is work whatever its size: about as much as so many bytes. Counts for shares, not for rates. */
const PIECE_COST_BYTES = 8 * 1024;
/** With a rate for the whole relay. */
const TURN_MS = 5;
/** Unused parts of turns that are kept for the next ones. */
const LEFTOVER_TURNS_MAX = 8;
/** Who asked for nothing in this time is not active. */
const ACTIVE_MS = 100;
/** A rate lets so much through at once after a pause, */
const BURST_MS = 100;
/** but at least this. */
const BURST_BYTES_MIN = 256 * 1024;
/** How far the urgent streams of a session may run ahead of its rate: somebody's workload waits for them. */
const URGENT_AHEAD_MS = 1_000;
/** A session that was held back is told again after so long without it. */
const EPISODE_MS = 30_000;

export type RateLimitName = "sessionBytesPerS" | "relayedBytesPerS" | "nodeBytesPerS";

export interface FairShareOptions {
  /** What the whole relay may pass on; 0: as much as it can. */
  readonly nodeBytesPerS: number;
  /** Milliseconds, monotone. */
  readonly clock?: () => number;
  /** Runs something in the next turn of the event loop. */
  readonly nextTurn?: (run: () => void) => void;
}

/** A project's bounds, as configured. */
export interface ProjectShare {
  /** 0: none. */
  readonly bytesPerS: number;
  readonly weight: number;
}

export interface FlowOptions {
  readonly projectId: string;
  readonly project: ProjectShare;
  /** 0: none. */
  readonly bytesPerS: number;
  /** The session begins to be held back by this bound; once until it was not for a while. */
  readonly onHeld?: (limitName: RateLimitName, bytesPerS: number) => void;
}

/** One session's bytes. */
export interface Flow {
  /** @returns What to wait for before the piece is passed on; `undefined` if it may be now. Never rejects. */
  take(bytes: number, urgent: boolean): Promise<void> | undefined;
  /** The session's own bound; 0: none. */
  bytesPerS: number;
  /** Lets go whoever waits. */
  close(): void;
}

/** Paces: says when a piece may go, and counts it from then on. */
class Pace {
  bytesPerS: number;
  /** When what was let through so far is paid for. */
  #paidMs = 0;

  constructor(bytesPerS: number) {
    this.bytesPerS = bytesPerS;
  }

  /** @returns Milliseconds to wait. */
  take(bytes: number, nowMs: number, aheadMs: number): number {
    if (this.bytesPerS <= 0) return 0;
    const burstMs = Math.max(BURST_MS, (BURST_BYTES_MIN / this.bytesPerS) * 1_000);
    this.#paidMs = Math.max(this.#paidMs, nowMs - burstMs) + (bytes / this.bytesPerS) * 1_000;
    return Math.max(0, this.#paidMs - nowMs - aheadMs);
  }
}

interface Project {
  readonly id: string;
  readonly pace: Pace;
  weight: number;
  flows: number;
  activeFlows: number;
}

interface Waiter {
  readonly bytes: number;
  readonly go: () => void;
}

class SessionFlow implements Flow {
  readonly project: Project;
  readonly pace: Pace;
  readonly waiting: Waiter[] = [];
  /** The turn that `left` is of. */
  turn = -1;
  /** What may still be passed on in the turn; below zero, what was passed on ahead of the next ones. */
  left = 0;
  active = false;
  activeAtMs = 0;
  closed = false;
  readonly #owner: FairShare;
  readonly #onHeld: FlowOptions["onHeld"];
  readonly #heldAtMs = new Map<RateLimitName, number>();
  readonly #timers = new Map<ReturnType<typeof setTimeout>, () => void>();

  constructor(owner: FairShare, project: Project, options: FlowOptions) {
    this.#owner = owner;
    this.project = project;
    this.pace = new Pace(options.bytesPerS);
    this.#onHeld = options.onHeld;
  }

  get bytesPerS(): number {
    return this.pace.bytesPerS;
  }

  set bytesPerS(value: number) {
    this.pace.bytesPerS = value;
  }

  take(bytes: number, urgent: boolean): Promise<void> | undefined {
    return this.closed ? undefined : this.#owner.take(this, bytes, urgent);
  }

  held(limitName: RateLimitName, bytesPerS: number, nowMs: number): void {
    const before = this.#heldAtMs.get(limitName);
    this.#heldAtMs.set(limitName, nowMs);
    if (before === undefined || nowMs - before > EPISODE_MS) this.#onHeld?.(limitName, bytesPerS);
  }

  pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        resolve();
      }, ms);
      this.#timers.set(timer, resolve);
    });
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.#owner.leave(this);
    for (const [timer, resolve] of this.#timers) {
      clearTimeout(timer);
      resolve();
    }
    this.#timers.clear();
    for (const { go } of this.waiting.splice(0)) go();
  }
}

export class FairShare {
  readonly #nodeBytesPerS: number;
  readonly #clock: () => number;
  readonly #nextTurn: (run: () => void) => void;
  readonly #projects = new Map<string, Project>();
  readonly #active = new Set<SessionFlow>();
  /** Those with somebody waiting, in the order in which they are served. */
  readonly #waiting = new Set<SessionFlow>();
  #turn = 0;
  #turnBytes = TURN_BYTES;
  #turnDue = false;
  #turnAtMs = 0;
  #lookedAtMs = 0;
  #totalWeight = 0;

  constructor(options: FairShareOptions) {
    this.#nodeBytesPerS = options.nodeBytesPerS;
    this.#clock = options.clock ?? (() => performance.now());
    this.#nextTurn = options.nextTurn ?? ((run) => void setImmediate(run));
  }

  /** Changes a project's bounds, if one of its sessions is here. */
  configure(projectId: string, { bytesPerS, weight }: ProjectShare): void {
    const project = this.#projects.get(projectId);
    if (project === undefined) return;
    project.pace.bytesPerS = bytesPerS;
    if (project.activeFlows > 0) this.#totalWeight += weight - project.weight;
    project.weight = weight;
  }

  get projectIds(): readonly string[] {
    return [...this.#projects.keys()];
  }

  flow(options: FlowOptions): Flow {
    const { projectId: id } = options;
    const { bytesPerS, weight } = options.project;
    const project = this.#projects.get(id) ?? {
      id,
      pace: new Pace(bytesPerS),
      weight,
      flows: 0,
      activeFlows: 0,
    };
    this.#projects.set(id, project);
    this.configure(id, options.project);
    project.flows++;
    return new SessionFlow(this, project, options);
  }

  /** For `Flow.take`. */
  take(flow: SessionFlow, bytes: number, urgent: boolean): Promise<void> | undefined {
    const nowMs = this.#clock();
    const aheadMs = urgent ? URGENT_AHEAD_MS : 0;
    const ofSession = flow.pace.take(bytes, nowMs, aheadMs);
    const ofProject = flow.project.pace.take(bytes, nowMs, aheadMs);
    if (ofSession > 0) flow.held("sessionBytesPerS", flow.pace.bytesPerS, nowMs);
    if (ofProject > 0) flow.held("relayedBytesPerS", flow.project.pace.bytesPerS, nowMs);
    const waitMs = Math.max(ofSession, ofProject);
    const cost = this.#nodeBytesPerS > 0 ? bytes : bytes + PIECE_COST_BYTES;
    if (waitMs < 1) return this.#contend(flow, cost, urgent, nowMs);
    return flow.pause(waitMs).then(() => {
      if (flow.closed) return;
      return this.#contend(flow, cost, urgent, this.#clock());
    });
  }

  /** For `Flow.close`. */
  leave(flow: SessionFlow): void {
    this.#waiting.delete(flow);
    if (flow.active) this.#deactivate(flow);
    const { project } = flow;
    project.flows--;
    if (project.flows === 0) this.#projects.delete(project.id);
  }

  #contend(
    flow: SessionFlow,
    bytes: number,
    urgent: boolean,
    nowMs: number,
  ): Promise<void> | undefined {
    flow.activeAtMs = nowMs;
    if (!flow.active) this.#activate(flow);
    if (nowMs - this.#lookedAtMs > ACTIVE_MS) this.#dropIdle(nowMs);
    // Alone there is nobody to be fair to.
    if (this.#nodeBytesPerS <= 0 && this.#active.size === 1) return undefined;
    this.#askForTurn(nowMs);
    if (flow.turn !== this.#turn) this.#renew(flow);
    const enough = urgent ? flow.left > -this.#part(flow) : flow.left > 0;
    if (enough && (urgent || flow.waiting.length === 0)) {
      flow.left -= bytes;
      return undefined;
    }
    if (this.#nodeBytesPerS > 0) flow.held("nodeBytesPerS", this.#nodeBytesPerS, nowMs);
    return new Promise((resolve) => {
      flow.waiting.push({ bytes, go: resolve });
      this.#waiting.add(flow);
    });
  }

  #part({ project }: SessionFlow): number {
    return (
      (this.#turnBytes * project.weight) /
      (Math.max(project.weight, this.#totalWeight) * Math.max(1, project.activeFlows))
    );
  }

  /** Its part of this turn; what it was ahead of the last ones it has had. */
  #renew(flow: SessionFlow): void {
    flow.turn = this.#turn;
    flow.left = Math.min(flow.left, 0) + this.#part(flow);
  }

  #askForTurn(nowMs: number): void {
    if (this.#turnDue) return;
    this.#turnDue = true;
    if (this.#nodeBytesPerS <= 0) return this.#nextTurn(() => this.#runTurn());
    if (this.#turnAtMs === 0 || nowMs - this.#turnAtMs > ACTIVE_MS) this.#turnAtMs = nowMs;
    setTimeout(() => this.#runTurn(), TURN_MS);
  }

  #runTurn(): void {
    this.#turnDue = false;
    const nowMs = this.#clock();
    if (this.#nodeBytesPerS > 0) {
      let leftover = 0;
      for (const flow of this.#active) {
        leftover += flow.turn === this.#turn ? Math.max(0, flow.left) : this.#part(flow);
      }
      const fresh = (this.#nodeBytesPerS * (nowMs - this.#turnAtMs)) / 1_000;
      const kept = Math.min(leftover, LEFTOVER_TURNS_MAX * fresh);
      this.#turnAtMs = nowMs;
      this.#turnBytes = fresh + kept;
    } else {
      this.#turnBytes = Math.max(TURN_BYTES, FLOW_TURN_BYTES * this.#active.size);
    }
    this.#turn++;
    // Those of now: one that is put back in goes behind the others, and waits for the next turn.
    const served = [...this.#waiting];
    for (const flow of served) {
      if (flow.turn !== this.#turn) this.#renew(flow);
      while (flow.left > 0) {
        const next = flow.waiting.shift();
        if (next === undefined) break;
        flow.left -= next.bytes;
        next.go();
      }
      this.#waiting.delete(flow);
      // Behind those that were served less lately.
      if (flow.waiting.length > 0) this.#waiting.add(flow);
    }
    if (this.#waiting.size > 0) this.#askForTurn(nowMs);
  }

  #activate(flow: SessionFlow): void {
    flow.active = true;
    this.#active.add(flow);
    if (flow.project.activeFlows++ === 0) this.#totalWeight += flow.project.weight;
  }

  #deactivate(flow: SessionFlow): void {
    flow.active = false;
    this.#active.delete(flow);
    if (--flow.project.activeFlows === 0) this.#totalWeight -= flow.project.weight;
    if (this.#active.size === 0) this.#totalWeight = 0;
  }

  #dropIdle(nowMs: number): void {
    this.#lookedAtMs = nowMs;
    for (const flow of this.#active) {
      const idle = nowMs - flow.activeAtMs > ACTIVE_MS && flow.waiting.length === 0;
      if (idle) this.#deactivate(flow);
    }
  }
}
