/**
 * What the addon gives to TypeScript: a region, its bitmaps and its exports.
 *
 * Everything that touches storage runs on the addon's own threads and answers by promise, so a slow
 * disk never holds the event loop. A hit on an export is served on those threads and never enters
 * JavaScript; a miss calls `onFault` once per chunk and parks only the request that missed.
 *
 * Bitmaps have one bit per chunk, lowest bit of byte 0 first, `ceil(chunkCount / 8)` bytes; unused
 * tail bits are zero.
 *
 * @module
 */

/** Where a region's bytes live on this host. */
export type RegionStore =
  | {
      /** Anonymous memory (a sealed memfd): gone with the process. */
      readonly kind: "memory";
    }
  | {
      /** A file or memfd that is open already, of exactly the region's size; copied. Its lock comes with it. */
      readonly kind: "descriptor";
      readonly fd: number;
    }
  | {
      readonly kind: "file";
      readonly path: string;
      /** Make the file if it is absent. An existing file must have exactly the region's size. */
      readonly create: boolean;
      /** Reserve every block now, so that a full disk is an error before the migration and not after. */
      readonly reserve: boolean;
      /** Refuse writes: the file is opened for reading only. */
      readonly readOnly?: boolean;
    };

export interface RegionOptions {
  readonly store: RegionStore;
  /** Length of the region in bytes, `> 0`; need not be a multiple of anything. */
  readonly bytes: number;
  /** A power of two, 4 KiB to 4 MiB. */
  readonly chunkBytes: number;
  /** 32 bytes: the key of every chunk hash (BLAKE3, keyed mode). Copied; wiped at `close`. */
  readonly hashKey: Uint8Array;
  /** `all`: the source, which has everything. `none`: a destination that has yet to receive it. */
  readonly present: "all" | "none";
  /** `open` serves exports at once; `closed` parks every request until `setGate("open")`. */
  readonly gate: "open" | "closed";
  /**
   * Beside the region, what of it is present and what was verified when it was stored, so that a later process
   * goes on with it. `resume`: presence begins with what the file says; see `restored`.
   *
   * @throws NativeError `ESTATE` if the file is damaged or another region's
   */
  readonly state?: {
    readonly path: string;
    readonly mode: "create" | "resume";
    /** Keep `written()` too. A file that was made without it cannot be resumed with it, nor the other way round. */
    readonly writes?: boolean;
  };
  /** Threads that read, hash and store for `read`, `hash` and `store`. Default 2. */
  readonly threads?: number;
  /**
   * Chunks that somebody now waits for and that are not present. Called on the JS thread, batched,
   * once per chunk until it arrives (again only after `retryFaults`).
   */
  readonly onFault?: (indexes: Uint32Array) => void;
  /**
   * The bytes are a copy of what is kept elsewhere. A program that asks an export for durability waits until
   * `settleSyncs`; this is called on the JS thread when the first one of a group does.
   */
  readonly onSync?: () => void;
  /** Every write through an export waits as if the program had asked for durability. Needs `onSync`. Default `false`. */
  readonly writeThrough?: boolean;
  /** `evict` may be called. Costs reads a copy. Default `false`. */
  readonly evictable?: boolean;
}

/**
 * - `open`: requests are served; a missing chunk parks its request.
 * - `draining`: reads park, writes are served. For flushing a page cache that must not refill.
 * - `closed`: reads and writes park.
 * - `fenced`: every request fails with ESTALE: the region lives elsewhere now.
 */
export type Gate = "open" | "draining" | "closed" | "fenced";

/** One chunk's outcome in `store`. */
export const StoreOutcome = {
  stored: 0,
  /** The bytes do not hash to what was promised. Nothing was written. */
  mismatch: 1,
  /** `ifAbsent` was asked and the chunk is present, or another store of it is under way. */
  skipped: 2,
} as const;

export interface ReadResult {
  /** 32 bytes per chunk, in the order asked. */
  readonly hashes: Uint8Array;
  /** 1 where every byte of the chunk is zero. */
  readonly zero: Uint8Array;
}

export interface StoreRequest {
  readonly indexes: Uint32Array;
  /** Chunk `k` starts at `bytes[offsets[k]]`; `ZERO_CHUNK` stores zeros (a hole where the store can). */
  readonly offsets: Uint32Array;
  readonly bytes: Uint8Array;
  /** 32 bytes per chunk: verified before a byte is written. Empty: the bytes are taken as they are. */
  readonly hashes: Uint8Array;
  /**
   * `false`: before the commit point; a newer copy replaces an older one and presence stays as it is.
   * `true`: after it; writes only if absent, then marks present and wakes who waited. Two stores of one
   * chunk never interleave, and none ever lands on a chunk that the workload may already have written.
   */
  readonly ifAbsent: boolean;
}

/** An entry of `StoreRequest.offsets` that means "all zeros, no bytes sent". */
export const ZERO_CHUNK = 0xffff_ffff;

export interface RegionStats {
  /** Requests that exports served, and those of them that had to wait for a chunk. */
  readonly reads: number;
  readonly writes: number;
  /** Times that a program asked an export to make its writes durable. */
  readonly syncs: number;
  readonly misses: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly parked: number;
  readonly presentChunks: number;
  readonly dirtyChunks: number;
  /** CLOCK_MONOTONIC milliseconds (`performance.timeOrigin`-free, as `process.hrtime`) of the first
   * read or write served since the gate last opened; 0 if none was. */
  readonly firstServedAtMs: number;
}

export interface NativeRegion {
  /** Names it within this process: another thread gets the same region by `shareRegion`. 0 once it is closed. */
  readonly id: number;
  readonly bytes: number;
  readonly chunkBytes: number;
  readonly chunkCount: number;

  /**
   * Reads and hashes chunks. Chunk `k` of the answer stands at `into[k * chunkBytes]`; the region's
   * last chunk may be short, and the rest of its slot is left as it was.
   *
   * @param indexes Chunk indexes, `< chunkCount`.
   * @param into At least `indexes.length * chunkBytes` bytes; untouched by the caller until it settles.
   * @throws NativeError `EIO` and the like; `EIO` also where the file ended early (it was truncated).
   */
  read(indexes: Uint32Array, into: Uint8Array): Promise<ReadResult>;
  /** `read` without the bytes. */
  hash(indexes: Uint32Array): Promise<ReadResult>;
  /**
   * Verifies and writes chunks. Calls that name the same chunk take effect in the order of the calls.
   *
   * @returns One `StoreOutcome` per chunk.
   * @throws NativeError `ENOSPC` and the like; chunks before the failing one may have been stored.
   */
  store(request: StoreRequest): Promise<Uint8Array>;
  /** Makes what was stored durable (fdatasync). */
  sync(): Promise<void>;

  /**
   * `sync`, and then everything that was present before the call is so after a crash of this host. An export's
   * fsync does the same, so nothing that a workload made durable is ever taken for missing.
   */
  checkpoint(): Promise<void>;
  /** 32 bytes per chunk, from the state: what was stored last and verified; zeros where nothing was. */
  storedHashes(): Uint8Array;
  /**
   * What presence began with: nothing of an earlier process; exactly what it had, on the same boot of this
   * host; or its last checkpoint, after a crash of the host.
   */
  readonly restored: "none" | "exact" | "checkpoint";
  /** Of the open store, to be handed to a process that goes on after this one; -1 once it is closed. */
  readonly descriptor: number;

  /** Chunks written through an export since the last take; leaves the set empty, in one atomic step per word. */
  takeDirty(): Uint8Array;
  /** Adds marks, e.g. those of a round that failed. */
  mergeDirty(bitmap: Uint8Array): void;

  presence(): Uint8Array;
  /** Marks chunks present and wakes who waited for them. */
  setPresent(bitmap: Uint8Array): void;

  readonly gate: Gate;
  /** Takes effect for requests not yet begun; requests parked by the gate are retried when it opens. */
  setGate(gate: Gate): void;
  /** Resolves once no request that began before the call is still reading or writing the store. */
  quiesce(): Promise<void>;
  /** Reports every chunk that somebody still waits for to `onFault` again (after a reconnect). */
  retryFaults(): void;
  /** Fails every parked request with this errno name, e.g. `EIO`. */
  failParked(errno: string): void;

  stats(): RegionStats;
  /** `RegionMapping.flush` of every mapping of this region, whichever thread of this process made it. */
  flushMappings(): Promise<void>;
  /**
   * 32 bytes: the key of every chunk hash from now on.
   *
   * Whoever compares hashes with earlier ones must not be at it.
   */
  rekey(key: Uint8Array): void;
  /** Closes the group of those who wait for durability: what they wrote is in a `takeDirty` after this, or was in one. */
  takeSyncs(): number;
  /** Answers who is in this group or an earlier one; with an errno name such as `EIO`, that it failed. */
  settleSyncs(group: number, errno?: string): void;
  /**
   * Chunks that were written and not settled since, also by an earlier process that had `state.writes`; empty without.
   */
  written(): Uint8Array;
  /** Chunks of a `takeDirty` that are elsewhere now. One that was written since then stays in `written`. */
  settleWritten(bitmap: Uint8Array): void;
  /**
   * Makes chunks absent and gives their room back. Not while the region is shown by `uffd` or `memory`.
   *
   * @returns Those that are gone; the others are missing, were written, or somebody was at them.
   */
  evict(indexes: Uint32Array): Promise<Uint32Array>;
  /** Stops the threads, fails what is parked with ESHUTDOWN, closes the store. Exports must be gone. */
  close(): Promise<void>;
}

export interface FuseMountOptions {
  /** An empty directory; the region's file appears in it. */
  readonly directory: string;
  /** Worker threads, each with its own clone of the kernel channel. Default 2. */
  readonly threads?: number;
  /** The kernel's read-ahead for this mount, in bytes. Default 1 MiB. Best effort. */
  readonly readAheadBytes?: number;
  /**
   * Chunks that a store with `ifAbsent` brings go into the kernel's page cache too, while there is memory to spare, so
   * that whoever touches them later asks nobody. Default true.
   */
  readonly warm?: boolean;
  /** Let other users see the mount. Default true for root. */
  readonly allowOther?: boolean;
  /**
   * Take over what another process mounted at `directory` (as its `directory` said it): descriptors of all its channels, from `channels()`. One
   * thread serves each. Nothing is answered before `serve`.
   */
  readonly channels?: readonly number[];
}

export interface FuseMount {
  readonly directory: string;
  /** Publishes a region as `directory/name`. */
  add(
    name: string,
    region: NativeRegion,
    attributes?: { readonly mode?: number; readonly readOnly?: boolean },
  ): void;
  /** Writes dirty pages of `mmap`ed and buffered writers back to the region. The gate must let writes pass. */
  flush(name: string): Promise<void>;
  /**
   * `flush`, then drops every cached page, so that each later access asks us again. With the gate at
   * `draining` nothing can refill the cache: this is how a mapping is fenced.
   */
  invalidate(name: string): Promise<void>;
  /**
   * The kernel's read-ahead for files opened from now on, at most 64 MiB.
   *
   * @returns `false` if this host does not let us (without root).
   */
  setReadAhead(bytes: number): boolean;
  /**
   * Descriptors of this connection. As long as some process holds all of them, the kernel keeps who waits for an
   * answer waiting, though the process that was to give it is gone.
   */
  channels(): number[];
  /**
   * A mount that is taken over begins to answer, after every `add` (in the same order as before: the kernel knows
   * files by number). The kernel sends again what was read and never answered.
   *
   * @returns `false` if it cannot (before Linux 6.9): whoever waits for such an answer waits on.
   */
  serve(): boolean;
  /** Unmounts (lazily if it is busy) and fails what is in flight with ENOTCONN. Idempotent. */
  unmount(): Promise<void>;
}

/** Where NBD clients find a server; port 0: a free one, which `NbdServer.address` then tells. */
export type NbdAddress =
  | { readonly path: string }
  | { readonly host: string; readonly port: number };

export interface NbdServerOptions {
  /** A Unix socket, mode 0600 (an abandoned one there is replaced), or TCP. */
  readonly listen: NbdAddress;
  /** `require`: nothing but STARTTLS is answered in the clear. Default `off`. */
  readonly tls?: "off" | "allow" | "require";
  /**
   * A client has asked for TLS: `encrypted` is its socket, where the handshake comes next; what is inside goes to
   * and from `plain`. Both belong to the callee. Needed unless `tls` is `off`.
   */
  readonly onTls?: (encrypted: number, plain: number) => void;
  /** Further ones are cut at once. Default 64. */
  readonly maxConnections?: number;
}

/**
 * Serves regions to NBD clients on the addon's own threads: fixed newstyle, structured and extended replies, any
 * number of exports and connections. A hit never enters JavaScript.
 */
export interface NbdServer {
  /** Where it listens. */
  readonly address: NbdAddress;
  readonly connections: number;
  /** Offers a region; the first one answers to the empty name too. At most 256. */
  add(
    name: string,
    region: NativeRegion,
    attributes?: { readonly readOnly?: boolean; readonly description?: string },
  ): void;
  /** Cuts every connection and removes the socket's file. Idempotent. */
  stop(): Promise<void>;
}

export interface NbdDeviceOptions {
  /** Of `/dev/nbdN`. Default: the kernel picks one. */
  readonly index?: number;
  /** The device is there and waits for a successor of the process that attached it. Needs `index`. */
  readonly again?: boolean;
  /** Whose it is, as `/sys/block/nbdN/backend` then says; `again` must say the same. */
  readonly identifier: string;
  readonly readOnly?: boolean;
  readonly connections?: number;
  /**
   * How long the kernel waits for an answer before it asks again: what a successor of this process is to answer
   * takes that long at most. Nothing fails by it. Default 10.
   */
  readonly timeoutSeconds?: number;
  /** How long who waits is kept waiting when this process is gone. Default 60. */
  readonly deadSeconds?: number;
  /**
   * `ioctl`: also where the kernel's client speaks netlink. Such a device has no timeouts, waits for no successor, and
   * fails with its process. Default `auto`: netlink where there is any.
   */
  readonly via?: "auto" | "ioctl";
}

/** A region as a block device of the kernel's NBD client. The region stays open until it is detached. */
export interface NbdDevice {
  /** `/dev/nbdN` */
  readonly path: string;
  /** How the kernel was told. */
  readonly via: "netlink" | "ioctl";
  /** Writes back what the kernel holds, and lets the device go. Idempotent. */
  detach(): Promise<void>;
}

export interface UffdServerOptions {
  /** A Unix socket, mode 0600; an abandoned one there is replaced. */
  readonly path: string;
}

export interface MapOptions {
  /** `sync`: do without the kernel's own notes of writes, as before Linux 6.7. Default `auto`. */
  readonly tracking?: "auto" | "sync";
}

/**
 * Serves a region as the memory of programs that hand over their userfaultfd, in the layout that Firecracker sends to a
 * page-fault handler. A page that is touched is copied in, or mapped where the program's memory is the region's file;
 * a missing chunk makes who touches it wait.
 */
export interface UffdServer {
  readonly path: string;
  /** Programs that are served now. */
  readonly clients: number;
  /** Connections that were turned away; each was told why. */
  readonly refused: number;
  /** The one region of this socket. Programs that came before wait for it. */
  add(name: string, region: NativeRegion): void;
  /** What programs wrote before the call is in the region, and marked. */
  flush(): Promise<void>;
  /** Flushes and lets go: from then on a program that touches a page for the first time waits. Idempotent. */
  stop(): Promise<void>;
}

/** A region in this process's own memory, without a copy. */
export interface RegionMapping {
  /**
   * Exactly the region. Touching a chunk that is missing stops the thread until it has arrived: never do so on the
   * thread that is to receive it. Detached by `unmap`.
   */
  readonly memory: ArrayBuffer;
  /** How writes are found: by the kernel's notes, or by a fault for each page. */
  readonly tracking: "async" | "sync";
  /** Chunks that were written through `memory` before the call are marked dirty. */
  flush(): Promise<void>;
  /** Idempotent. @throws NativeError `EBUSY` if the memory cannot be taken back from JavaScript */
  unmap(): Promise<void>;
}

export interface DirectSocketOptions {
  /** Default: a free one. Bound on every address, in both families where the host has both. */
  readonly port?: number;
  /** `poll` has something to tell. */
  readonly onWake: () => void;
}

export interface DirectConnectOptions {
  readonly address: string;
  readonly port: number;
  /** Tells the packets of this connection from those of earlier ones: 32 bits, the same on both sides. */
  readonly id: number;
  /** 32 bytes each: every packet is authenticated. */
  readonly sendKey: Uint8Array;
  readonly receiveKey: Uint8Array;
  /** Measured round trip, microseconds. */
  readonly rttUs: number;
  /** What another path to the same peer carries; this one is begun with half of it. Default: nothing is known. */
  readonly bytesPerS?: number;
  /** This side will send much: until it does, it measures the path with up to 1 MiB of padding. Default: no. */
  readonly warm?: boolean;
}

export interface DirectEvents {
  /** What is not of the connection; at most 64, later ones are dropped. */
  readonly datagrams: readonly {
    readonly bytes: Uint8Array;
    readonly address: string;
    readonly port: number;
  }[];
  /** Streams that have something to read, or ended. */
  readonly readable: readonly number[];
  /** Streams whose last `write` said `false`. */
  readonly writable: readonly number[];
  /** The connection is over: `closeReason` says why. */
  readonly closed: boolean;
}

export interface DirectStats {
  readonly packetsSent: number;
  readonly packetsReceived: number;
  readonly packetsLost: number;
  /** Not authentic, or repeated. */
  readonly packetsRefused: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly rttMs: number;
  readonly minRttMs: number;
  /** Estimate of what the path carries. */
  readonly bytesPerS: number;
  readonly inFlightBytes: number;
  readonly windowBytes: number;
  /** Largest packet that is known to arrive: UDP payload. */
  readonly packetBytes: number;
  /** Since the last authentic packet came. */
  readonly silentForMs: number;
  /** Where the other side is now. */
  readonly address: string;
  readonly port: number;
}

/**
 * A UDP socket for finding another peer, and the one direct connection to it: 66 reliable streams by number, 0 and 1
 * ahead of the others. A thread of its own paces, repeats what is lost, finds the packet size and follows a peer whose
 * address changes. A connection that heard nothing for 3.5 s is over.
 */
export interface DirectSocket {
  readonly port: number;
  /** What ended the connection, in one line; undefined while it goes on. */
  readonly closeReason: string | undefined;
  /** What the side that ended it gave with the reason. */
  readonly closeCode: number;
  /** Best effort. `false` if the address is none. */
  send(bytes: Uint8Array, address: string, port: number): boolean;
  /** `false` if the address is none, or there is or was a connection. */
  connect(options: DirectConnectOptions): boolean;
  /** Copies. `false`: no more until `poll` names the stream as writable. */
  write(stream: number, bytes: Uint8Array): boolean;
  /** Nothing more will be written. */
  end(stream: number): void;
  /** At most `most` bytes; undefined: nothing now; null: the other side ended the stream. */
  read(stream: number, most: number): Uint8Array | null | undefined;
  poll(): DirectEvents;
  stats(): DirectStats;
  /** @param code 16 bits, for the other side. @param settle Waits up to 3 s for what was written to arrive. Idempotent. */
  close(reason: string, code?: number, settle?: boolean): Promise<void>;
}

/** Whether this host has userfaultfd for us. */
export interface UffdProbe {
  readonly available: boolean;
  /** One line, with what to do. */
  readonly reason?: string;
  readonly tracking?: "async" | "sync";
  /** Memory that is shared with the region's file, as `mapRegion` needs it. */
  readonly shared?: boolean;
}

/** Whether this host lets us mount, and what to do if not. */
export interface FuseProbe {
  readonly available: boolean;
  /** One line, e.g. "/dev/fuse is missing". */
  readonly reason?: string;
  /** One line, e.g. "run: sudo modprobe fuse". */
  readonly remedy?: string;
}

export interface SocketFacts {
  readonly congestionControl: string;
  /** Smoothed, and the shortest of late. */
  readonly rttMs: number;
  readonly rttMinMs: number;
  /** What the sender may have under way. */
  readonly windowBytes: number;
  /** Segments, since the connection began. */
  readonly retransmits: number;
  readonly deliveryBytesPerS: number;
  readonly segmentBytes: number;
}

export interface NativeAddon {
  openRegion(options: RegionOptions): NativeRegion;
  mountFuse(options: FuseMountOptions): FuseMount;
  /** @throws NativeError `EADDRINUSE`, `EACCES`, `ENOTFOUND` and the like */
  serveNbd(options: NbdServerOptions): NbdServer;
  /** @throws NativeError `ENODEV` (no NBD in the kernel), `EBUSY`, `EPERM` */
  attachNbd(region: NativeRegion, options: NbdDeviceOptions): Promise<NbdDevice>;
  /** Lets go a device that another process left behind. */
  disconnectNbd(index: number): Promise<void>;
  /** @throws NativeError `EADDRINUSE`, `ENOENT` and the like */
  serveUffd(options: UffdServerOptions): UffdServer;
  /**
   * Maps a region of memory, or of a file on tmpfs. It stays open until it is unmapped.
   *
   * @throws NativeError `EINVAL` for another one, `ENOSYS`, `EPERM`
   */
  mapRegion(region: NativeRegion, options?: MapOptions): RegionMapping;
  /**
   * A region that another thread of this process has open. It is that thread's to end: `close` only lets go of it.
   *
   * @param options `onFault` is told of missing chunks, on this thread, in place of the one that the region was
   *   opened with.
   * @throws NativeError `ESHUTDOWN`
   */
  shareRegion(id: number, options?: Pick<RegionOptions, "onFault">): NativeRegion;
  /** @throws NativeError `EADDRINUSE` and the like */
  openDirectSocket(options: DirectSocketOptions): DirectSocket;
  probeUffd(): UffdProbe;
  probeFuse(): FuseProbe;
  /**
   * A copy of a descriptor of another process of this user that we may trace: of a child.
   *
   * @throws NativeError `ESRCH`, `EBADF`, `EPERM`
   */
  adoptDescriptor(pid: number, fd: number): number;
  closeDescriptor(fd: number): void;
  /**
   * Chooses how a TCP connection finds its rate: "bbr", "cubic". A hint: refused, the connection stays as it is.
   *
   * @returns `null` if it is in force, else why it is not.
   */
  setCongestionControl(fd: number, name: string): string | null;
  /** Above this many bytes that TCP has not sent yet the socket takes no more. @returns Whether the kernel took it. */
  setUnsentBytesMax(fd: number, bytes: number): boolean;
  /**
   * Raises the buffers of a socket as far as this process may: past `net.core.rmem_max` as root only. Never lowers
   * one.
   *
   * @returns The usable bytes as they are now; 0 for what is no socket.
   */
  setSocketBuffers(
    fd: number,
    buffers: { readonly receive?: number; readonly send?: number },
  ): { readonly receive: number; readonly send: number };
  /** What the kernel knows of a TCP connection; `null` for anything else. */
  socketFacts(fd: number): SocketFacts | null;
  /** Descriptors of this process's UDP sockets, whoever opened them. */
  datagramSockets(): number[];
  /** BLAKE3-256: keyed with 32 bytes, or plain if `key` is undefined. On the calling thread. */
  blake3(data: Uint8Array, key?: Uint8Array): Uint8Array;
}
