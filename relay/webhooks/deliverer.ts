/**
 * Delivers what happened to the webhooks that want to hear of it, until it has arrived or was tried often enough.
 *
 * Any relay of a database delivers for all of its webhooks: what is due is taken in a transaction, and comes back
 * after a while if who took it has died. A receiver may so hear of an event twice, and says which by its delivery id.
 *
 * @module
 */
import type { Database } from "../db/database.ts";
import {
  forgetDeliveries,
  makeDeliveries,
  saveAttempt,
  takeDeliveries,
  type AttemptOutcome,
  type DeliveryRow,
  type WebhookRow,
} from "../db/webhooks.ts";
import { systemCode } from "../errors.ts";
import type { Log } from "../log.ts";
import { messageOf } from "../protocol/errors.ts";
import type { SecretBox } from "../secret-box.ts";
import {
  addressesOf,
  checkUrl,
  resolveBySystem,
  type DestinationRules,
  type Resolve,
} from "./destination.ts";
import {
  DELIVERIES_AT_ONCE_MAX,
  DELIVERIES_AT_ONCE_PER_WEBHOOK_MAX,
  DELIVERY_ATTEMPTS_MAX,
  DELIVERY_DEADLINE_MS,
  LOOK_INTERVAL_MS,
  RETRY_FIRST_MS,
  RETRY_MAX_MS,
} from "./limits.ts";
import { post } from "./post.ts";
import { SIGNATURE_HEADER, signatureOf } from "./signature.ts";

const FORGET_INTERVAL_MS = 3_600_000;
const PROBLEM_CHARS_MAX = 200;
/** After a look that failed. */
const PATIENCE_MS = 10_000;

export interface DelivererOptions {
  readonly database: Database;
  readonly secrets: SecretBox;
  readonly rules: DestinationRules;
  readonly version: string;
  readonly log: Log;
  /** How an attempt ended: `delivered`, `pending`, `failed`. */
  readonly onAttempt?: (state: AttemptOutcome["state"]) => void;
  /** What a test puts in place of the world. */
  readonly resolve?: Resolve;
  readonly ca?: string;
  readonly lookIntervalMs?: number;
  readonly deadlineMs?: number;
  /** Default: doubled and more each time, see `retryInMs`. */
  readonly retryInMs?: (attempts: number) => number;
}

export class Deliverer {
  readonly #options: DelivererOptions;
  readonly #stop = new AbortController();
  readonly #underWay = new Map<Promise<void>, string>();
  #timer: ReturnType<typeof setInterval> | undefined;
  #looking: Promise<void> | undefined;
  #notBeforeMs = 0;
  #forgottenAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: DelivererOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = setInterval(() => {
      // A database that is away is not asked by each tick: others ask it too, and each failure is a line.
      if (performance.now() >= this.#notBeforeMs) void this.look();
    }, this.#options.lookIntervalMs ?? LOOK_INTERVAL_MS);
  }

  /** Takes what is due. Never rejects; one look at a time. */
  look(): Promise<void> {
    this.#looking ??= this.#look()
      .catch((error: unknown) => {
        this.#notBeforeMs = performance.now() + PATIENCE_MS;
        // It is asked again in a moment, and the database's own failures are counted where they are.
        this.#options.log("debug", "webhooks were not looked at", { reason: messageOf(error) });
      })
      .finally(() => {
        this.#looking = undefined;
      });
    return this.#looking;
  }

  /** Waits for what is under way; attempts that do not end at once are cut off, and made again by another relay. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#stop.abort(new Error("the relay is going down"));
    await this.#looking;
    await Promise.all(this.#underWay.keys());
  }

  async #look(): Promise<void> {
    const { database } = this.#options;
    if (performance.now() - this.#forgottenAtMs > FORGET_INTERVAL_MS) {
      this.#forgottenAtMs = performance.now();
      await forgetDeliveries(database);
    }
    await makeDeliveries(database);
    while (!this.#stop.signal.aborted) {
      const room = DELIVERIES_AT_ONCE_MAX - this.#underWay.size;
      if (room <= 0) return;
      const taken = await takeDeliveries(
        database,
        Math.min(room, DELIVERIES_AT_ONCE_PER_WEBHOOK_MAX),
        // Those that have some under way wait for them: so none has more than its share.
        [...new Set(this.#underWay.values())],
      );
      if (taken.length === 0) return;
      for (const { delivery, webhook } of taken) this.#begin(delivery, webhook);
    }
  }

  #begin(delivery: DeliveryRow, webhook: WebhookRow): void {
    const work = this.#deliver(delivery, webhook).finally(() => {
      this.#underWay.delete(work);
      // There may be more for it, and there is room.
      if (!this.#stop.signal.aborted) void this.look();
    });
    this.#underWay.set(work, webhook.id);
  }

  async #deliver(delivery: DeliveryRow, webhook: WebhookRow): Promise<void> {
    const { database, log, onAttempt } = this.#options;
    const outcome = await this.#attempt(delivery, webhook);
    const { state, statusCode, problem } = outcome;
    onAttempt?.(state);
    log(state === "failed" ? "warn" : "debug", `webhook delivery ${state}`, {
      webhookId: webhook.id,
      deliveryId: delivery.id,
      attempts: delivery.attempts,
      statusCode,
      reason: problem,
    });
    try {
      await saveAttempt(database, delivery.id, outcome);
    } catch (error) {
      // It comes back by itself, and is delivered twice.
      log("warn", "the outcome of a webhook delivery was not recorded", {
        deliveryId: delivery.id,
        reason: messageOf(error),
      });
    }
  }

  async #attempt(delivery: DeliveryRow, webhook: WebhookRow): Promise<AttemptOutcome> {
    const secrets = this.#secretsOf(webhook);
    if (secrets === undefined) {
      return failed("its secret was sealed under another key than this relay's: rotate it");
    }
    let statusCode: number;
    try {
      statusCode = await this.#post(delivery, webhook, secrets);
    } catch (error) {
      return this.#again(delivery, undefined, reasonOf(error));
    }
    if (statusCode >= 200 && statusCode < 300) {
      return { state: "delivered", statusCode, problem: "", retryInMs: 0 };
    }
    if (statusCode >= 300 && statusCode < 400) {
      return { ...failed("the receiver redirects, which is not followed"), statusCode };
    }
    if (statusCode === 410) return { ...failed("the receiver says that it is gone"), statusCode };
    return this.#again(delivery, statusCode, "the receiver refused it");
  }

  async #post(
    { id, type, payload }: DeliveryRow,
    webhook: WebhookRow,
    secrets: readonly string[],
  ): Promise<number> {
    const { rules, version, ca, deadlineMs = DELIVERY_DEADLINE_MS } = this.#options;
    const deadline = AbortSignal.timeout(deadlineMs);
    const signal = AbortSignal.any([this.#stop.signal, deadline]);
    // The rules may have changed since it was made.
    const url = checkUrl(webhook.url, rules);
    const [address = ""] = await raced(
      addressesOf(url, rules, this.#options.resolve ?? resolveBySystem),
      signal,
    );
    return await post({
      url,
      address,
      ca,
      signal,
      body: payload,
      headers: {
        "content-type": "application/json",
        "user-agent": `memferry-relay/${version}`,
        "memferry-event": type,
        "memferry-delivery": id,
        [SIGNATURE_HEADER]: signatureOf(payload, Math.floor(Date.now() / 1000), secrets),
      },
    });
  }

  /** The one of now first; the one before while it is good. */
  #secretsOf({
    id,
    sealedSecret,
    previousSealedSecret,
    previousUntil,
  }: WebhookRow): string[] | undefined {
    const open = (sealed: Uint8Array): string | undefined => {
      const bytes = this.#options.secrets.open(secretUse(id), sealed);
      return bytes === undefined ? undefined : new TextDecoder().decode(bytes);
    };
    const now = open(sealedSecret);
    if (now === undefined) return undefined;
    if (previousSealedSecret === null || (previousUntil?.getTime() ?? 0) <= Date.now())
      return [now];
    const before = open(previousSealedSecret);
    return before === undefined ? [now] : [now, before];
  }

  #again(delivery: DeliveryRow, statusCode: number | undefined, problem: string): AttemptOutcome {
    if (delivery.attempts >= DELIVERY_ATTEMPTS_MAX) return { ...failed(problem), statusCode };
    const wait = this.#options.retryInMs ?? retryInMs;
    return { state: "pending", statusCode, problem, retryInMs: wait(delivery.attempts) };
  }
}

/** What a webhook's secret is sealed for. */
export function secretUse(webhookId: string): string {
  return `webhook ${webhookId}`;
}

/** @param attempts So many have failed, `>= 1`. @returns Milliseconds, spread so that a receiver that is back is not stormed. */
export function retryInMs(attempts: number, random: () => number = Math.random): number {
  return Math.min(RETRY_FIRST_MS * 3 ** (attempts - 1), RETRY_MAX_MS) * (0.75 + random() / 2);
}

function failed(problem: string): AttemptOutcome {
  return { state: "failed", statusCode: undefined, problem, retryInMs: 0 };
}

/** For the project's own eyes: what its receiver did, and nothing of the relay's network. */
function reasonOf(error: unknown): string {
  const code = systemCode(error);
  const isTimeout = error instanceof DOMException && error.name === "TimeoutError";
  if (isTimeout || code === "ABORT_ERR") return "no answer in time";
  return (code ?? messageOf(error)).slice(0, PROBLEM_CHARS_MAX);
}

/** The name service has no deadline of its own that could be set. */
async function raced<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const { promise, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener("abort", abort);
    work.catch(() => {});
  }
}
