/**
 * memferry as a library: the two sides of a migration, and what they need to find each other.
 *
 * @module
 */
export { isTransient, MigrationError, type MigrationErrorCode } from "./errors.ts";
export { ExportedWrites } from "./export/export.ts";
export { ScannedWrites } from "./export/scanned-writes.ts";
export type { Destination } from "./migration/destination.ts";
export type { MigrationEvent, MigrationProgress, MigrationTotals } from "./migration/events.ts";
export type { FinalizePolicy, LeecherOptions } from "./migration/leecher-options.ts";
export { Leecher } from "./migration/leecher.ts";
export type { Mode, OfferMessage } from "./migration/messages.ts";
export { Seeder, type SeederHooks, type SeederOptions } from "./migration/seeder.ts";
export { ApiClient, ApiError } from "./net/api-client.ts";
export { dialLink, type LinkChoice } from "./net/dial.ts";
export { LinkError, type LinkErrorCode } from "./net/errors.ts";
export { PeerIdentity } from "./net/peer-identity.ts";
export { RelayControl, type RelayControlOptions } from "./net/relay-control.ts";
export type { ChunkStore, DirtySource } from "./region/region.ts";
