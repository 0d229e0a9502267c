/**
 * The protocol between a peer and the relay. Imports nothing; runs in a browser.
 *
 * @module
 */
export * from "./bytes.ts";
export * from "./discovery.ts";
export * from "./errors.ts";
export * from "./frame.ts";
export * from "./ids.ts";
export * from "./ip-address.ts";
export * from "./limits.ts";
export * from "./message-stream.ts";
export * from "./relay-certificates.ts";
export type * from "./stream.ts";
export * from "./ticket.ts";
export * from "./version.ts";
