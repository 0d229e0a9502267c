/**
 * A place where programs find regions: a mount, a server, a device.
 *
 * @module
 */
import type { FuseMount, NativeRegion } from "../../native/index.ts";
import type { PeerPath } from "./read-ahead.ts";

export interface ShownAs {
  /** Programs may not write. */
  readonly readOnly?: boolean;
}

export interface ExportPlace {
  /** Set where a successor of this process can take it over. */
  readonly mount?: FuseMount;
  /** Shows a region under its name. */
  add(name: string, region: NativeRegion, shown?: ShownAs): void;
  /** What a program opens; of a device only after `attach`. */
  pathOf(name: string): string;
  /** Begins to answer. @returns Whether everybody who waited for a process before this one is heard */
  serve(): boolean;
  /** The gate is open: what looks at a region as soon as it sees it may see it now. */
  attach(): Promise<void>;
  /** How far away is what is missing; `undefined`: nothing is. The kernel reads ahead accordingly. */
  follow?(path: PeerPath | undefined): void;
  /** Brings what the kernel holds back of a region's writes to the region. The gate must let writes pass. */
  flush(name: string): Promise<void>;
  /** The same with the gate at `draining`, and lets the kernel forget what it has cached. */
  invalidate(name: string): Promise<void>;
  /** Brings what is in programs' own memory, where nothing but this would bring it. Waits for no chunk. */
  settle?(): Promise<void>;
  close(): Promise<void>;
}
