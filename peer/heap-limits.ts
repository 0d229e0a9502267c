/**
 * Tells V8 how to count buffers. Imported first, for its effect.
 *
 * By default each 64 MiB of new buffers begin a collection of the whole heap, however small that is: at 1 GiB/s of buffers
 * that live for milliseconds it took a third of a peer's processor time. Counted within the limit for the heap as a
 * whole, which grows with it, they are collected as everything else is; a peer's memory rises by some 50 MiB.
 *
 * @module
 */
import { setFlagsFromString } from "node:v8";

// Deno has the function and no use for it; a V8 that does not know the flag ignores it with a line on standard error.
if (!("Deno" in globalThis)) setFlagsFromString("--external-memory-accounted-in-global-limit");
