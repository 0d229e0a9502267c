/**
 * Why the demo could not show what it is for.
 *
 * @module
 */

/** The message is one line and names the cure. */
export class DemoError extends Error {
  override readonly name = "DemoError";
}
