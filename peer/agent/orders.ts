/**
 * The orders that an agent has, and the peers that it runs for them.
 *
 * Each is kept in a file before the relay hears that it runs. The peer is a `memferry resume` of its own, which outlives
 * the agent: a workload that uses what was received must not stop because the agent did. An agent that comes back
 * finds it by its process, or starts it again, and its journal goes on.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, readFile, rm, statfs } from "node:fs/promises";
import { lstat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { z } from "zod";
import {
  sealedFromText,
  sealedTokenInfo,
  type OrderProblemCode,
  type SignedSealedText,
} from "../../relay/protocol/agent.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { TICKET_SECRET_BYTES, type Role } from "../../relay/protocol/ids.ts";
import { replaceFile } from "../journal/envelope.ts";
import { SessionDirectory } from "../journal/session-directory.ts";
import { currentPins } from "../net/relay-pins.ts";
import { parseRelayUrl } from "../net/address.ts";
import { PeerIdentity } from "../net/peer-identity.ts";
import { sleep } from "../sleep.ts";
import { isAllowedPeer, type AgentConfig } from "./config.ts";
import type { AgentIdentity } from "./identity.ts";
import {
  cancelOrderSchema,
  leechOrderSchema,
  seedOrderSchema,
  type ReceivedOrder,
} from "./messages.ts";

const LOOK_INTERVAL_MS = 250;
const RESTART_FIRST_MS = 500;
const RESTART_MAX_MS = 15_000;
const HASH_KEY_BYTES = 32;
const MAIN = fileURLToPath(import.meta.url).replace(/agent[/\\]orders\.(ts|js)$/, "main.$1");
/** What another attempt may cure, if nothing has moved yet. */
const PASSING = new Set([
  "RELAY_UNREACHABLE",
  "DEADLINE_EXCEEDED",
  "LINK_CLOSED",
  "RELAY_DRAINING",
  "PROXY_UNREACHABLE",
  "RESUME_INVALID",
]);

export type OrderState = "running" | "done" | "failed" | "cancelled";

interface Problem {
  readonly code: string;
  readonly message: string;
}

/** As it is kept. */
interface OrderRecord {
  readonly id: string;
  readonly kind: string;
  state: OrderState;
  problem?: Problem | undefined;
  /** For the leecher, in a seeder's order. */
  secret?: SignedSealedText | undefined;
  /** Of the session, and which side of it. */
  readonly role?: Role | undefined;
  readonly sessionId?: string | undefined;
  /** The peer that works on it, and when that process began. */
  process?: { readonly pid: number; readonly start: string } | undefined;
  cancelling?: boolean | undefined;
  /** The relay has kept how it ended. */
  kept?: boolean | undefined;
}

export class OrderProblem extends Error {
  readonly code: OrderProblemCode;

  constructor(code: OrderProblemCode, message: string) {
    super(message);
    this.code = code;
  }
}

export interface AgentOrdersOptions {
  readonly identity: AgentIdentity;
  readonly config: AgentConfig;
  /** The agent's own. */
  readonly stateDirectory: string;
  readonly send: (message: Readonly<Record<string, unknown>> & { readonly type: string }) => void;
  readonly onChange: (order: {
    id: string;
    kind: string;
    state: string;
    problem?: Problem | undefined;
  }) => void;
  readonly signal: AbortSignal;
}

export class AgentOrders {
  readonly #options: AgentOrdersOptions;
  readonly #records = new Map<string, OrderRecord>();
  readonly #running = new Map<string, Promise<void>>();
  #turn: Promise<void> = Promise.resolve();

  constructor(options: AgentOrdersOptions) {
    this.#options = options;
  }

  /** What an earlier agent had goes on. */
  async open(): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    for (const file of await readdir(this.#folder)) {
      if (!/^[0-9a-f]{32}\.json$/.test(file)) continue;
      // Written by `#save` alone, in a directory that is this user's own.
      const record = JSON.parse(await readFile(join(this.#folder, file), "utf8")) as OrderRecord;
      this.#records.set(record.id, record);
      if (record.state === "running" || record.process !== undefined) this.#work(record);
    }
  }

  /** After each login: the relay may have missed it. */
  sayAll(): void {
    for (const record of this.#records.values()) if (record.kept !== true) this.#say(record);
  }

  /** One after the other. */
  receive(order: ReceivedOrder): void {
    this.#turn = this.#turn.then(() => this.#receive(order));
  }

  kept(id: string, state: string): void {
    const record = this.#records.get(id);
    if (record === undefined || state !== record.state || record.state === "running") return;
    record.kept = true;
    this.#turn = this.#turn.then(() => this.#settle(record));
  }

  /** The peers go on without this agent. */
  async close(): Promise<void> {
    await this.#turn;
    await Promise.all(this.#running.values());
  }

  get #folder(): string {
    return join(this.#options.stateDirectory, "orders");
  }

  get #sessions(): string {
    return join(this.#options.stateDirectory, "sessions");
  }

  async #receive(order: ReceivedOrder): Promise<void> {
    const known = this.#records.get(order.id);
    if (known !== undefined) return this.#say(known);
    const record: OrderRecord = { id: order.id, kind: order.kind, state: "running" };
    let begun = record;
    try {
      if (order.begun) {
        throw new OrderProblem("ORDER_LOST", "this host knows nothing of it any more");
      }
      begun = { ...record, ...(await this.#begin(order)) };
    } catch (error) {
      const code = error instanceof OrderProblem ? error.code : "AGENT_FAILED";
      begun = {
        ...record,
        state: "failed",
        problem: { code, message: shortened(messageOf(error)) },
      };
    }
    this.#records.set(begun.id, begun);
    await this.#save(begun);
    this.#say(begun);
    if (begun.state === "running") this.#work(begun);
  }

  async #begin(order: ReceivedOrder): Promise<Partial<OrderRecord>> {
    switch (order.kind) {
      case "seed":
        return await this.#beginSeed(bodyOf(seedOrderSchema, order));
      case "leech":
      case "mount":
        return await this.#beginLeech(bodyOf(leechOrderSchema, order), order.kind === "mount");
      case "cancel": {
        const target = this.#records.get(bodyOf(cancelOrderSchema, order).orderId);
        if (target !== undefined) await this.#cancel(target);
        return { state: "done" };
      }
      default:
        throw new OrderProblem("ORDER_UNSUPPORTED", `this agent cannot ${order.kind}`);
    }
  }

  async #beginSeed(body: z.infer<typeof seedOrderSchema>): Promise<Partial<OrderRecord>> {
    const { config, identity } = this.#options;
    const region = config.regions.get(body.region);
    if (region === undefined) {
      throw new OrderProblem("REGION_NOT_OFFERED", `this host offers no region ${body.region}`);
    }
    this.#requireAllowed(body.to.id);
    const argv = [
      "--file",
      region.file,
      "--region",
      region.name,
      "--chunk",
      String(region.chunkBytes),
      "--once",
      ...(region.export === undefined ? [] : ["--export", region.export]),
      ...this.#hook("--on-suspend", body.hooks.suspend),
      ...this.#hook("--on-rollback", body.hooks.rollback),
      ...this.#hook("--on-release", body.hooks.release),
    ];
    const sessionId = Uint8Array.from(Buffer.from(body.sessionId, "hex"));
    const secret = new Uint8Array(randomBytes(TICKET_SECRET_BYTES));
    const sealed = await identity.sealSecret(sessionId, body.to, secret).catch((error: unknown) => {
      throw new OrderProblem("KEY_UNTRUSTED", messageOf(error));
    });
    await this.#makeSession("seeder", { sessionId, token: body.token, secret, argv });
    return { role: "seeder", sessionId: body.sessionId, secret: sealed };
  }

  async #beginLeech(
    body: z.infer<typeof leechOrderSchema>,
    isMount: boolean,
  ): Promise<Partial<OrderRecord>> {
    const { config, identity } = this.#options;
    this.#requireAllowed(body.from.id);
    const [only] = config.directories.size === 1 ? config.directories.values() : [];
    const directory = body.directory === undefined ? only : config.directories.get(body.directory);
    if (directory === undefined) {
      throw new OrderProblem(
        "DIRECTORY_UNKNOWN",
        body.directory === undefined
          ? `this host names ${config.directories.size} directories: say which`
          : `this host receives into no directory ${body.directory}`,
      );
    }
    const shown = body.export === undefined ? undefined : config.exports.get(body.export);
    if (body.export !== undefined && shown === undefined) {
      throw new OrderProblem("EXPORT_NOT_ALLOWED", `this host allows no export ${body.export}`);
    }
    if (isMount && shown === undefined) {
      throw new OrderProblem("EXPORT_NOT_ALLOWED", "what is mounted needs an export: name one");
    }
    if (body.bytes > directory.bytesMax) {
      throw new OrderProblem(
        "REGION_TOO_LARGE",
        `the region has ${body.bytes} bytes and ${directory.name} takes ${directory.bytesMax}`,
      );
    }
    const file = join(directory.path, body.region);
    const there = await lstat(file).catch(() => undefined);
    if (there !== undefined && !there.isFile()) {
      throw new OrderProblem("PATH_OUTSIDE", `${body.region} is no plain file in its directory`);
    }
    const { bavail, bsize } = await statfs(directory.path);
    if (there === undefined && bavail * bsize < body.bytes) {
      throw new OrderProblem(
        "DISK_TOO_SMALL",
        `the region has ${body.bytes} bytes, and ${bavail * bsize} are free`,
      );
    }
    const argv = [
      "--file",
      file,
      "--finalize",
      body.finalize,
      "--max-bytes",
      String(directory.bytesMax),
      ...(body.mode === "live" ? [] : ["--mode", body.mode]),
      ...(body.downtimeBudgetMs === undefined
        ? []
        : ["--downtime-budget", `${body.downtimeBudgetMs}ms`]),
      ...(shown === undefined ? [] : ["--export", shown]),
      ...(directory.overwrite ? ["--overwrite"] : []),
      ...this.#hook("--on-resume", body.hooks.resume),
    ];
    const sessionId = Uint8Array.from(Buffer.from(body.sessionId, "hex"));
    const secret = await identity
      .openSecret(sessionId, body.from, body.secret)
      .catch((error: unknown) => {
        const untrusted = messageOf(error).includes("signed");
        throw new OrderProblem(
          untrusted ? "KEY_UNTRUSTED" : "SECRET_UNREADABLE",
          untrusted ? messageOf(error) : "the session's secret is not sealed to this host",
        );
      });
    if (secret.length !== TICKET_SECRET_BYTES) {
      throw new OrderProblem("SECRET_UNREADABLE", "the session's secret has another length");
    }
    await this.#makeSession("leecher", { sessionId, token: body.token, secret, argv });
    return { role: "leecher", sessionId: body.sessionId };
  }

  #requireAllowed(id: string): void {
    if (isAllowedPeer(this.#options.config, id)) return;
    throw new OrderProblem(
      "PEER_NOT_ALLOWED",
      `this host's configuration does not name peer ${id.slice(0, 32)}`,
    );
  }

  #hook(option: string, name: string | undefined): string[] {
    if (name === undefined) return [];
    const command = this.#options.config.hooks.get(name);
    if (command === undefined) {
      throw new OrderProblem("HOOK_NOT_NAMED", `this host's configuration names no hook ${name}`);
    }
    // The command line takes what a shell does: each word is quoted whole.
    return [option, command.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ")];
  }

  async #makeSession(
    role: Role,
    session: {
      readonly sessionId: Uint8Array;
      readonly token: { readonly encapsulated: string; readonly ciphertext: string };
      readonly secret: Uint8Array;
      readonly argv: readonly string[];
    },
  ): Promise<void> {
    const { identity } = this.#options;
    const { sessionId, secret, argv } = session;
    const token = await identity
      .open(sealedFromText(session.token), sealedTokenInfo(sessionId, role))
      .catch(() => {
        throw new OrderProblem("SECRET_UNREADABLE", "the ticket is not sealed to this host");
      });
    const { url: relayUrl, identity: relayIdentity, certificateHashes: first } = identity.relay;
    const certificateHashes = currentPins({
      address: parseRelayUrl(relayUrl),
      certificateHashes: first,
      relayIdentity,
    });
    await SessionDirectory.create(this.#sessions, {
      ticket: {
        relayUrl,
        certificateHashes,
        ...(certificateHashes.length === 0 ? {} : { relayIdentity }),
        sessionId,
        role,
        token,
        secret,
      },
      identity: PeerIdentity.generate(),
      ...(role === "seeder" ? { hashKey: new Uint8Array(randomBytes(HASH_KEY_BYTES)) } : {}),
      argv,
      cwd: this.#options.stateDirectory,
      createdAtMs: Date.now(),
    });
  }

  async #cancel(record: OrderRecord): Promise<void> {
    record.cancelling = true;
    await this.#save(record);
    const { process: worker } = record;
    if (worker === undefined || (await startOf(worker.pid)) !== worker.start) return;
    process.kill(worker.pid, "SIGINT");
  }

  #work(record: OrderRecord): void {
    if (record.role === undefined || this.#running.has(record.id)) return;
    const working = this.#run(record)
      .catch(async (error: unknown) => {
        // The agent ends: the peer goes on.
        if (this.#options.signal.aborted) return;
        await this.#end(record, "failed", { code: "AGENT_FAILED", message: messageOf(error) });
      })
      .finally(() => this.#running.delete(record.id));
    this.#running.set(record.id, working);
  }

  async #run(record: OrderRecord): Promise<void> {
    let delayMs = RESTART_FIRST_MS;
    for (;;) {
      this.#options.signal.throwIfAborted();
      if (record.process === undefined) await this.#start(record);
      const { done, problem } = await this.#follow(record);
      record.process = undefined;
      if (done || record.state !== "running") return await this.#end(record, "done");
      if (record.cancelling === true) {
        return await this.#end(record, "cancelled", problem);
      }
      if (!(await this.#canGoOn(record, problem))) {
        const unknown = { code: "AGENT_FAILED", message: "the peer ended without a word" };
        return await this.#end(record, "failed", problem ?? unknown);
      }
      await this.#save(record);
      await sleep(delayMs, this.#options.signal);
      delayMs = Math.min(2 * delayMs, RESTART_MAX_MS);
    }
  }

  async #start(record: OrderRecord): Promise<void> {
    const log = await open(this.#log(record), "w", 0o600);
    try {
      const command = ["resume", record.sessionId ?? "", "--state-dir", this.#sessions, "--json"];
      const child = spawn(process.execPath, [...process.execArgv, MAIN, ...command], {
        // A file and no pipe: it must be able to write when this agent is gone.
        stdio: ["ignore", log.fd, log.fd],
        detached: true,
        cwd: this.#options.stateDirectory,
      });
      await new Promise<void>((resolve, reject) => {
        child.once("spawn", resolve);
        child.once("error", reject);
      });
      child.unref();
      const pid = child.pid ?? 0;
      record.process = { pid, start: await startOf(pid) };
      await this.#save(record);
    } finally {
      await log.close();
    }
  }

  /** Until its process is gone. */
  async #follow(
    record: OrderRecord,
  ): Promise<{ readonly done: boolean; readonly problem: Problem | undefined }> {
    const worker = record.process ?? { pid: 0, start: "" };
    let done = false;
    let problem: Problem | undefined;
    let at = 0;
    for (;;) {
      const isGone = worker.start === "" || (await startOf(worker.pid)) !== worker.start;
      const text = await readFile(this.#log(record), "utf8").catch(() => "");
      const whole = text.slice(at, text.lastIndexOf("\n") + 1);
      at += whole.length;
      for (const line of whole.split("\n")) {
        const event = eventOf(line);
        if (event?.["event"] === "done") done = true;
        if (event?.["event"] === "error") {
          const { code, message } = event;
          problem = { code: String(code), message: shortened(String(message)) };
        }
      }
      // What was received may be shown to programs for long after.
      if (done && record.state === "running") await this.#end(record, "done");
      if (isGone) return { done, problem };
      await sleep(LOOK_INTERVAL_MS, this.#options.signal);
    }
  }

  async #canGoOn(record: OrderRecord, problem: Problem | undefined): Promise<boolean> {
    const name = `${record.role ?? ""}-${record.sessionId ?? ""}`;
    const directory = (await SessionDirectory.list(this.#sessions)).find((one) =>
      one.path.endsWith(name),
    );
    if (directory === undefined || (await directory.isOver())) return false;
    const journal =
      directory.role === "seeder" ? directory.seederJournal() : directory.leecherJournal();
    const isUnderWay = (await journal).record !== undefined;
    return problem === undefined || isUnderWay || PASSING.has(problem.code);
  }

  async #end(record: OrderRecord, state: OrderState, problem?: Problem): Promise<void> {
    const isNew = record.state !== state;
    record.state = state;
    if (problem !== undefined && state !== "done") record.problem = problem;
    await this.#save(record);
    if (isNew) this.#say(record);
    await this.#settle(record);
  }

  /** Forgets it when there is nothing left to do or to say. */
  async #settle(record: OrderRecord): Promise<void> {
    if (record.kept !== true) return;
    if (record.process !== undefined) return await this.#save(record);
    this.#records.delete(record.id);
    await rm(this.#file(record), { force: true });
    await rm(this.#log(record), { force: true });
  }

  #say({ id, kind, state, problem, secret }: OrderRecord): void {
    this.#options.send({
      type: "orderState",
      id,
      state,
      ...(problem === undefined ? {} : { problem }),
      ...(secret === undefined ? {} : { secret }),
    });
    this.#options.onChange({ id, kind, state, problem });
  }

  async #save(record: OrderRecord): Promise<void> {
    await replaceFile(this.#file(record), Buffer.from(`${JSON.stringify(record)}\n`));
  }

  #file({ id }: OrderRecord): string {
    return join(this.#folder, `${id}.json`);
  }

  #log({ id }: OrderRecord): string {
    return join(this.#folder, `${id}.log`);
  }
}

function bodyOf<T>(schema: z.ZodType<T>, { body }: ReceivedOrder): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new OrderProblem(
    "ORDER_INVALID",
    `${issue?.path.join(".") ?? "body"}: ${issue?.message ?? ""}`,
  );
}

/** One line that the relay may show: nothing of this host's paths stands in it. */
function shortened(text: string): string {
  return text
    .replaceAll(/(?<![\w:/])\/[^\s:,;]+/g, "PATH")
    .replaceAll(/[^\p{L}\p{N}\p{P}\p{S} ]/gu, " ")
    .slice(0, 400);
}

function eventOf(line: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null
      ? Object.fromEntries(Object.entries(value))
      : undefined;
  } catch {
    // What is no event is a word of Node's or a hook's.
    return undefined;
  }
}

/** When a process began, in ticks since boot; empty if there is none. */
async function startOf(pid: number): Promise<string> {
  const line = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" || fields[0] === "X" ? "" : (fields[19] ?? "");
}
