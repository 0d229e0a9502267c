/**
 * What a person is told when a bound of the relay's holds a migration back.
 *
 * @module
 */
import type { ThrottledFrame } from "../../relay/protocol/frame.ts";

/** For a program it is the code that tells it apart. */
export function throttledWarning(held: Omit<ThrottledFrame, "kind">): {
  readonly event: "warning";
  readonly code: string;
  readonly message: string;
} {
  const { limitName, bytesPerS, retryInMs } = held;
  // From the network: one word of its own making, or nothing.
  const name = /^\w{1,64}$/.test(limitName) ? limitName : "a limit";
  const message =
    retryInMs > 0
      ? `the relay lets no new session in (${name}): it wants to be asked again in ${Math.ceil(retryInMs / 1_000)} s`
      : `the relay holds this migration to ${(bytesPerS / 1e6).toFixed(1)} MB/s (${name})`;
  return { event: "warning", code: "RELAY_THROTTLED", message };
}
