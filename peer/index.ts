/**
 * memferry as a library.
 *
 * ```ts
 * import { Region, seed, leech, mount } from "memferry";
 * ```
 *
 * `Region` is what migrates, as memory or as a path; `seed` offers it, `leech` takes it over, `mount` shows it to
 * programs. docs/library.md begins with an example. What follows those four are the parts that they are made of.
 *
 * @module
 */
export { Region } from "./library/region.ts";
export { seed, SeedSession } from "./library/seed.ts";
export { leech, LeechSession } from "./library/leech.ts";
export { mount } from "./library/mount.ts";
export type { Place } from "./library/arrival.ts";
export type { CommonOptions } from "./library/common-options.ts";
export type { SessionEvent, SessionEventOf } from "./library/event-log.ts";
export type { LibraryHook } from "./library/hooks.ts";
export type { LeechOptions } from "./library/leech.ts";
export type { Mount, MountOptions, MountSource } from "./library/mount.ts";
export type { CreateOptions, OpenOptions, RegionState } from "./library/region.ts";
export type { SeedOptions } from "./library/seed.ts";
export type { Session } from "./library/session.ts";
export { NativeError } from "../native/index.ts";
export { ProtocolError, type ProtocolErrorCode } from "../relay/protocol/errors.ts";

export { isTransient, MigrationError, type MigrationErrorCode } from "./errors.ts";
export { ExportedWrites } from "./export/exported-writes.ts";
export { ScannedWrites } from "./export/scanned-writes.ts";
export type { Journal, LeecherRecord, SeederRecord } from "./journal/journal.ts";
export type { Destination, KeptChunks } from "./migration/destination.ts";
export type { MigrationEvent, MigrationProgress, MigrationTotals } from "./migration/events.ts";
export type { FinalizePolicy, LeecherOptions } from "./migration/leecher-options.ts";
export { Leecher } from "./migration/leecher.ts";
export type { Mode, OfferMessage } from "./migration/messages.ts";
export type { SeederHooks, SeederOptions } from "./migration/seeder-options.ts";
export { Seeder } from "./migration/seeder.ts";
export { ApiClient, ApiError } from "./net/api-client.ts";
export { dialLink, type LinkChoice } from "./net/dial.ts";
export { LinkError, type LinkErrorCode } from "./net/errors.ts";
export { PeerIdentity } from "./net/peer-identity.ts";
export { RelayControl, type RelayControlOptions } from "./net/relay-control.ts";
export type { ChunkStore, DirtySource, RegionSlice } from "./region/region.ts";
