/**
 * What the peers are told of how a session is to go.
 *
 * @module
 */
import type { SessionTerms } from "../protocol/frame.ts";
import type { SessionLimits, SessionMode } from "./schema.ts";

export function termsOf({
  mode,
  limits,
}: {
  readonly mode: SessionMode;
  readonly limits: SessionLimits;
}): SessionTerms {
  return {
    mode,
    downtimeTargetMs: limits.downtimeTargetMs ?? 0,
    maxRounds: limits.maxRounds ?? 0,
  };
}
