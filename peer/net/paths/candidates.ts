/**
 * Placeholder until the real one is merged.
 *
 * @module
 */
import type { networkInterfaces } from "node:os";
import type { Candidate } from "./candidate.ts";

export function isForbiddenAddress(address: string): boolean {
  return address.startsWith("127.") || address === "::1" || address.startsWith("fe80:");
}

export function hostCandidates(
  interfaces: ReturnType<typeof networkInterfaces>,
  port: number,
): Candidate[] {
  return Object.values(interfaces).flatMap((list) =>
    (list ?? [])
      .filter(({ internal, address }) => !internal && !isForbiddenAddress(address))
      .map(({ address }) => ({ kind: "host" as const, address, port })),
  );
}

export function mergeCandidates(...lists: readonly (readonly Candidate[])[]): Candidate[] {
  return lists.flat().slice(0, 8);
}
