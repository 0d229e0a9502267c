/**
 * memferry as a library: the two sides of a migration, and what they need to find each other.
 *
 * @module
 */
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
