/**
 * Deliberate mistakes in the real code, each of which some seed must find. One that survives shows a blind spot of
 * the simulation.
 *
 * Those marked `model` are in what stands here for the addon's disk and for the database's SQL.
 *
 * @module
 */
import type { Replacement } from "./variants.ts";

export interface Mutant {
  readonly name: string;
  readonly replacements: readonly Replacement[];
}

const SEEDER = "peer/migration/seeder.ts";
const SEEDER_JOURNAL = "peer/migration/seeder-journal.ts";
const LEECHER = "peer/migration/leecher.ts";
const RECEIVER = "peer/migration/chunk-receiver.ts";
const SENDER = "peer/migration/chunk-sender.ts";
const START = "peer/migration/seeder-start.ts";
const HISTORY = "peer/migration/dirty-history.ts";
const DISK = "test/sim/disk.ts";
const REGION = "test/sim/region.ts";
const DATABASE = "test/sim/database.ts";
const PATHS = "peer/net/paths/path-manager.ts";

export const MUTANTS: readonly Mutant[] = [
  mutant("a dirty mark is dropped", [
    HISTORY,
    "    const now = performance.now();\n",
    "    if (set.size > 0) set.delete(set.next(0));\n    const now = performance.now();\n",
  ]),
  mutant("unacknowledged dirty sets are forgotten on a reconnect", [
    HISTORY,
    "for (const entry of this.#unacknowledged) if (entry[0] > mergedEpoch) yield entry;",
    "if (mergedEpoch < 0) yield* this.#unacknowledged;",
  ]),
  mutant(
    "an epoch with a gap before it is merged",
    [
      "peer/migration/merged-epochs.ts",
      "if (epoch !== this.#last + 1 && epoch !== folded) {",
      "if (epoch < 0) {",
    ],
    [
      HISTORY,
      "for (const entry of this.#unacknowledged) if (entry[0] > mergedEpoch) yield entry;",
      "if (mergedEpoch < 0) yield* this.#unacknowledged;",
    ],
  ),
  mutant("hashes of written chunks stay in the manifest", [
    HISTORY,
    "for (const index of dirty) this.#options.manifest.invalidate(index, closed);",
    "",
  ]),
  mutant("a chunk is tagged with the epoch after its read", [
    SENDER,
    "    const tag = epoch();\n    for (const index of indexes) reading.add(index);\n    const { hashes, zero } = await region.read(indexes, buffer);\n",
    "    for (const index of indexes) reading.add(index);\n    const { hashes, zero } = await region.read(indexes, buffer);\n    const tag = epoch();\n",
  ]),
  mutant("an older copy replaces a newer one", [
    RECEIVER,
    "if (tag < needed || tag <= submitted) continue;",
    "if (tag < 0) continue;",
  ]),
  mutant("ifAbsent is ignored after the switch-over", [
    RECEIVER,
    "ifAbsent: this.#ifAbsent,",
    "ifAbsent: this.#ifAbsent && request < 0,",
  ]),
  mutant("a copy that could not be stored counts as the newest", [
    RECEIVER,
    "        if (this.#submitted[index] === tag) this.#withdraw(index);\n      }\n      throw error;",
    "        if (index < 0) this.#withdraw(index);\n      }\n      throw error;",
  ]),
  mutant("stores under way are not waited for at the switch-over", [
    RECEIVER,
    "this.#switching = this.idle(new AbortController().signal);",
    "this.#switching = Promise.resolve();",
  ]),
  mutant("stale chunks count as ready", [
    RECEIVER,
    "if (!this.#manifest.isKnown(index)) this.#ready.delete(index);",
    "",
  ]),
  mutant("a stale chunk counts as ready while a newer copy is under way", [
    RECEIVER,
    "if (!this.#manifest.isKnown(index)) this.#ready.delete(index);",
    "if ((this.#submitted[index] ?? 0) <= epoch) this.#ready.delete(index);",
  ]),
  mutant("the commit is asked for before its record is durable", [
    LEECHER,
    'await this.#journal.record("committing", { finalized });',
    'void this.#journal.recordLater("joined");',
  ]),
  mutant("the gate opens before the commit", [
    LEECHER,
    "    const ownership = await session.commit(finalized.epoch, this.#over.signal);\n",
    '    destination.region.setGate("open");\n    const ownership = await session.commit(finalized.epoch, this.#over.signal);\n',
  ]),
  mutant("the relay's answer to a commit is not looked at", [
    LEECHER,
    '    if (ownership.owner !== "leecher") {\n      throw',
    "    if (ownership.epoch < 0) {\n      throw",
  ]),
  mutant("a leecher that fails at the commit does not learn its outcome", [
    LEECHER,
    "this.#committed = await giveBack(session, publicReason(error), this.#finalized !== undefined);",
    "await giveBack(session, publicReason(error), this.#finalized !== undefined);",
  ]),
  mutant("a leecher that was killed at its commit begins anew", [
    LEECHER,
    'if (restored?.phase === "committing") await this.#commitAgain();',
    "",
  ]),
  mutant("an owner that cannot begin says that it was cancelled", [
    LEECHER,
    "    this.#committed = true;\n    const { offer, finalized } = this.#journal.owned();\n",
    "    const { offer, finalized } = this.#journal.owned();\n",
  ]),
  mutant("finalize is asked for ahead of want", [
    LEECHER,
    "if (this.#caughtUp !== this.#channel) return;",
    "",
  ]),
  mutant("done is said before it is durable", [
    LEECHER,
    "    await this.#destination?.region.checkpoint();\n    return verifiedRoot",
    "    return verifiedRoot",
  ]),
  mutant("the answer to finalize is made afresh", [
    SEEDER,
    "this.#suspending ??= this.#suspend(deadlineMs);",
    "this.#suspending = this.#suspend(deadlineMs);",
  ]),
  mutant("the answer to finalize is given before its record is durable", [
    SEEDER,
    'await this.#journal.record("finalized", finalized);',
    'void this.#journal.record("finalized", finalized).catch(() => undefined);',
  ]),
  mutant("the workload is suspended without a record", [
    SEEDER,
    'await this.#journal.record("suspending");',
    "",
  ]),
  mutant("the image is not synced while the workload stands still", [
    SEEDER,
    "      // What the destination will still ask for must be here after a crash of this host.\n      region.sync(),\n",
    "",
  ]),
  mutant("the source is not fenced after the commit", [
    SEEDER,
    '    this.#options.dirty.fence();\n    void this.#journal.recordLater("committed");\n',
    '    void this.#journal.recordLater("committed");\n',
  ]),
  mutant("the source rolls back without asking the relay", [
    SEEDER,
    "if (await giveBack(session, reason, this.#finalized !== undefined)) {",
    "if ((await giveBack(session, reason, this.#finalized !== undefined)) && dirty === undefined) {",
  ]),
  mutant("a rollback leaves the gate closed", [
    SEEDER,
    "    dirty.thaw();\n    if (this.#suspended)",
    "    if (this.#suspended)",
  ]),
  mutant("a rollback does not start the workload", [
    SEEDER,
    "if (this.#suspended) await rollBackHook(this.#options);",
    "",
  ]),
  mutant("a clean round is said once, though the leecher was started again", [
    SEEDER,
    "    // Whoever asks may be another process than the one that was told.\n    this.#roundWasClean = false;\n",
    "",
  ]),
  mutant("a source that stands still waits to be asked again", [
    SEEDER,
    "if (this.#suspending !== undefined && !this.#committed) {",
    "if (this.#suspending === null) {",
  ]),
  mutant("a source that was started again does not fold", [
    SEEDER,
    "    this.#history.fold(folded);\n",
    "",
  ]),
  mutant("a source that was started again counts from the first epoch", [
    SEEDER_JOURNAL,
    "    if (epoch + 1 < this.#epochsDurable) return;\n",
    "    if (epoch > 0) return;\n",
  ]),
  mutant("the source lets go before the destination is complete", [
    LEECHER,
    "await receiver.settled.until(() => this.#committed && receiver.complete, signal);",
    "await receiver.settled.until(() => this.#committed, signal);",
  ]),
  mutant("the source lets go without a record", [
    SEEDER,
    "if (recorded) await runHook",
    "await runHook",
  ]),
  mutant("a reason tells the relay of this host's paths", [
    "peer/errors.ts",
    "export function publicReason(error: unknown): string {\n",
    "export function publicReason(error: unknown): string {\n  if (error instanceof Error) return error.message;\n",
  ]),
  mutant("records leave in the clear", [
    "peer/migration/sealed-stream.ts",
    "record.set(cipher.update(part), offset);",
    "record.set(part, offset);",
  ]),
  mutant("a chunk whose parts had no room is not asked for", [
    "peer/migration/chunk-intake.ts",
    "if (!options.receiver.isReady(index)) this.fault(Uint32Array.of(index));",
    "if (index < 0) this.fault(Uint32Array.of(index));",
  ]),
  mutant("the chunk that is sent ahead is read before tracking has begun", [
    START,
    "    await this.track();\n    const told",
    "    sender.sendAhead(0);\n    await this.track();\n    const told",
  ]),
  mutant("the chunk that is sent ahead counts as sent on every channel", [
    SENDER,
    "return this.#ahead === index;",
    "return index === 0;",
  ]),
  mutant("a source begins a channel twice", [
    START,
    "if (already !== undefined) return already;",
    "if (already === null) return already;",
  ]),
  mutant("the relay does not wait for the slower side", [
    "relay/switchboard/splice.ts",
    "    await to.write(piece);\n",
    "    to.write(piece).catch(() => undefined);\n",
  ]),
  mutant("a damaged copy is asked for on the channel that brought it", [
    LEECHER,
    "onStored: (again) => this.#stored(receiver, again),",
    "onStored: (again) => {\n          if (again.length > 0) intake.fault(Uint32Array.from(again));\n          this.#stored(receiver, []);\n        },",
  ]),
  mutant(
    "a direct path that is lost stays chosen",
    [
      PATHS,
      "if (network === undefined || network.lost.aborted) return undefined;",
      "if (network === undefined) return undefined;",
    ],
    [PATHS, "    this.#direct = undefined;\n    this.#movedAtMs", "    this.#movedAtMs"],
  ),
  mutant("a new pairing is never asked for", [
    PATHS,
    "this.#options.session.renewPairing(pairing.number)",
    "undefined",
  ]),
  mutant("a fallback of another attempt is believed", [
    PATHS,
    "if (same(this.#direct?.attempt, signal.attempt)) void",
    "if (this.#direct !== undefined) void",
  ]),
  mutant("the two sides of a direct path use different streams", [
    PATHS,
    "openStream: (i) => network.openStream(i) };",
    'openStream: (i) => network.openStream(this.#options.role === "seeder" && i > 1 ? i + 1 : i) };',
  ]),
  mutant("model: a commit does not look at the session's state", [
    DATABASE,
    " && !isEnded(truth.state)) {",
    ") {",
  ]),
  mutant("model: a commit that is repeated counts as a new one", [
    DATABASE,
    'truth.owner === "seeder" && truth.ownerEpoch < epoch && ',
    "",
  ]),
  mutant("model: after a host crash the live bitmap is believed", [
    DISK,
    "    this.present = ChunkSet.from(this.checkpointed.toBits(), this.chunkCount);\n    for",
    "    for",
  ]),
  mutant("model: a checkpoint does not sync the bytes", [
    REGION,
    '    await this.sync();\n    await this.#answer("checkpoint"',
    '    await this.#answer("checkpoint"',
  ]),
  mutant("model: a missing chunk reads as zeros", [
    DISK,
    "      server.fault(chunk);\n      return false;\n",
    "      access.served(new Uint8Array(CELL_BYTES));\n      return true;\n",
  ]),
  mutant("model: mappings are not written back before the workload is held", [
    REGION,
    '      this.#image.writeBack();\n      this.setGate("closed");\n',
    '      this.setGate("closed");\n',
  ]),
  mutant(
    "after the commit a second copy takes the place of the first",
    [RECEIVER, "if (this.#ifAbsent && submitted >= needed) continue;", ""],
    [REGION, "if (request.ifAbsent && image.present.has(index)) return StoreOutcome.skipped;", ""],
  ),
];

function mutant(
  name: string,
  ...replacements: readonly (readonly [file: string, find: string, replace: string])[]
): Mutant {
  return {
    name,
    replacements: replacements.map(([file, find, replace]) => ({ file, find, replace })),
  };
}
