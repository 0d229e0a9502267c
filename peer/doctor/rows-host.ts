/**
 * The rows about this host.
 *
 * @module
 */
import { formatBytes } from "../cli/size.ts";
import type { Row, RowStatus } from "./rows.ts";
import type { HostSnapshot } from "./snapshot.ts";

/** As `engines` in package.json. */
const NODE_MIN = [22, 18] as const;
/** A connection for each stream, and descriptors of exports. */
const OPEN_FILES_MIN = 1_024;
/** Bandwidth times delay of 1 Gbit/s at 30 ms is 3.75 MB: what holds one socket to less holds it back. */
const SOCKET_BYTES_MIN = 4 * 1024 * 1024;
const SOCKET_BYTES_ADVISED = 16 * 1024 * 1024;
/** A paused WebTransport session holds this much. */
const RECEIVE_DEFAULT_MIN = 1024 * 1024;
/** A journal, and the bitmaps of a large region. */
const DISK_BYTES_MIN = 16 * 1024 * 1024;
const DISK_BYTES_ADVISED = 1024 ** 3;

const row = (id: string, what: string, status: RowStatus, found: string, cure?: string): Row => ({
  id,
  what,
  status,
  found,
  cure,
});

export function hostRows(host: HostSnapshot): Row[] {
  return [
    nodeRow(host),
    addonRow(host),
    uffdRow(host),
    trackingRow(host),
    fuseRow(host),
    nbdRow(host),
    loopRow(host),
    libraryRow(host),
    maskingRow(host),
    openFilesRow(host),
    lockedRow(host),
    udpBuffersRow(host),
    tcpBuffersRow(host),
    congestionRow(host),
    diskRow(host),
  ];
}

function nodeRow({ nodeVersion }: HostSnapshot): Row {
  const [major = 0, minor = 0] = nodeVersion.split(".").map(Number);
  const [leastMajor, leastMinor] = NODE_MIN;
  const isGood = major > leastMajor || (major === leastMajor && minor >= leastMinor);
  return isGood
    ? row("node", "Node", "ok", nodeVersion)
    : row(
        "node",
        "Node",
        "fail",
        nodeVersion,
        `install Node ${leastMajor}.${leastMinor} or newer: npx -y node@24 $(which memferry)`,
      );
}

function addonRow({ native, kernel }: HostSnapshot): Row {
  const what = "memferry's addon";
  return "value" in native
    ? row("addon", what, "ok", `loads, on Linux ${kernel}`)
    : row(
        "addon",
        what,
        "fail",
        native.problem.message,
        "npm rebuild memferry, with g++ installed",
      );
}

function uffdRow({ native }: HostSnapshot): Row {
  const what = "userfaultfd (memory)";
  if ("problem" in native) return row("uffd", what, "unknown", "the addon does not load");
  const { available, reason } = native.value.uffd;
  return available
    ? row("uffd", what, "ok", "memory of programs can be a region")
    : row(
        "uffd",
        what,
        "warn",
        reason ?? "it cannot be had",
        "sudo sysctl -w vm.unprivileged_userfaultfd=1, or run as root; exports as files work without",
      );
}

function trackingRow({ native, kernel }: HostSnapshot): Row {
  const what = "PAGEMAP_SCAN, WP_ASYNC";
  if ("problem" in native || !native.value.uffd.available) {
    return row("tracking", what, "unknown", "no userfaultfd");
  }
  return native.value.uffd.tracking === "async"
    ? row("tracking", what, "ok", "writes to memory are noted by the kernel")
    : row(
        "tracking",
        what,
        "warn",
        `not in Linux ${kernel}: the first write to each page in each round is a fault`,
        "a kernel of 6.7 or newer; uname -r tells which one runs",
      );
}

function fuseRow({ native, hasFuseDevice, hasFusermount }: HostSnapshot): Row {
  const what = "FUSE (--export fuse:)";
  const missing = hasFuseDevice ? undefined : "sudo modprobe fuse";
  if ("problem" in native) return row("fuse", what, "unknown", "the addon does not load");
  const { available, reason, remedy } = native.value.fuse;
  if (available) {
    const helper = hasFusermount ? "" : ", as root (no fusermount3)";
    return row("fuse", what, "ok", `mounts${helper}`);
  }
  const cure = missing ?? remedy ?? "sudo apt-get install -y fuse3";
  return row("fuse", what, "warn", reason ?? "it cannot be had", cure);
}

function nbdRow({ hasNbd }: HostSnapshot): Row {
  const what = "NBD (--export nbd:auto)";
  return hasNbd
    ? row("nbd", what, "ok", "the kernel has its client")
    : row(
        "nbd",
        what,
        "warn",
        "the kernel's client is not loaded",
        "sudo modprobe nbd nbds_max=64; loop:auto works without",
      );
}

function loopRow({ hasLoop }: HostSnapshot): Row {
  const what = "loop (--export loop:auto)";
  return hasLoop
    ? row("loop", what, "ok", "/dev/loop-control is there")
    : row("loop", what, "warn", "/dev/loop-control is missing", "sudo modprobe loop");
}

function libraryRow({ webTransport }: HostSnapshot): Row {
  const what = "WebTransport library";
  return "name" in webTransport
    ? row("library", what, "ok", `${webTransport.name}, the first that loads`)
    : row(
        "library",
        what,
        "warn",
        `none: ${webTransport.unavailable}`,
        "npm install rwebtransport, on Node 24 or 26; WebSocket works without",
      );
}

function maskingRow({ hasBufferutil }: HostSnapshot): Row {
  const what = "bufferutil (WebSocket)";
  return hasBufferutil
    ? row("bufferutil", what, "ok", "masks in native code")
    : row(
        "bufferutil",
        what,
        "warn",
        "missing: WebSocket costs more CPU",
        "npm install bufferutil",
      );
}

function openFilesRow({ openFilesMax }: HostSnapshot): Row {
  const what = "open files (ulimit -n)";
  if (openFilesMax === undefined) return row("files", what, "unknown", "/proc does not tell");
  return openFilesMax >= OPEN_FILES_MIN
    ? row("files", what, "ok", limitOf(openFilesMax, String))
    : row("files", what, "warn", `${openFilesMax}: each stream is a connection`, "ulimit -n 65536");
}

function lockedRow({ lockedBytesMax }: HostSnapshot): Row {
  const what = "locked memory (ulimit -l)";
  // Nothing of memferry is locked; programs that use a region may want to lock it.
  return lockedBytesMax === undefined
    ? row("memlock", what, "unknown", "/proc does not tell")
    : row("memlock", what, "ok", limitOf(lockedBytesMax, formatBytes));
}

function limitOf(value: number, shown: (value: number) => string): string {
  return value === Infinity ? "unlimited" : shown(value);
}

function udpBuffersRow(host: HostSnapshot): Row {
  const what = "UDP buffers";
  const { receiveBytesMax, sendBytesMax, receiveBytesDefault } = host;
  const values = [receiveBytesMax, sendBytesMax, receiveBytesDefault];
  const found = ["rmem_max", "wmem_max", "rmem_default"]
    .map((name, i) => `${name} ${values[i] === undefined ? "?" : formatBytes(values[i])}`)
    .join(", ");
  if (values.every((value) => value === undefined)) {
    return row("udpBuffers", what, "unknown", "not shown in this network namespace");
  }
  const cures = [
    ...((receiveBytesMax ?? Infinity) < SOCKET_BYTES_MIN
      ? [`net.core.rmem_max=${SOCKET_BYTES_ADVISED}`]
      : []),
    ...((sendBytesMax ?? Infinity) < SOCKET_BYTES_MIN
      ? [`net.core.wmem_max=${SOCKET_BYTES_ADVISED}`]
      : []),
    ...((receiveBytesDefault ?? Infinity) < RECEIVE_DEFAULT_MIN
      ? [`net.core.rmem_default=${SOCKET_BYTES_MIN}`]
      : []),
  ];
  return cures.length === 0
    ? row("udpBuffers", what, "ok", found)
    : row(
        "udpBuffers",
        what,
        "warn",
        `${found}: bursts over distance are lost`,
        `sudo sysctl -w ${cures.join(" ")}`,
      );
}

function tcpBuffersRow({ tcpSendBytesMax }: HostSnapshot): Row {
  const what = "TCP buffers (tcp_wmem)";
  if (tcpSendBytesMax === undefined) return row("tcpBuffers", what, "unknown", "not shown here");
  const found = `up to ${formatBytes(tcpSendBytesMax)} a connection`;
  return tcpSendBytesMax >= SOCKET_BYTES_MIN
    ? row("tcpBuffers", what, "ok", found)
    : row(
        "tcpBuffers",
        what,
        "warn",
        found,
        `sudo sysctl -w net.ipv4.tcp_wmem="4096 65536 ${SOCKET_BYTES_ADVISED}"`,
      );
}

function congestionRow({ congestionControls }: HostSnapshot): Row {
  const what = "congestion control";
  if (congestionControls.length === 0) return row("congestion", what, "unknown", "not shown here");
  const found = congestionControls.join(", ");
  return congestionControls.includes("bbr")
    ? row("congestion", what, "ok", `${found}: BBR is there for paths that lose packets`)
    : row(
        "congestion",
        what,
        "warn",
        `${found}: no BBR for paths that lose packets`,
        "sudo modprobe tcp_bbr",
      );
}

function diskRow({ state }: HostSnapshot): Row {
  const what = "disk for sessions";
  const cure = "memferry ... --state-dir DIR, or MEMFERRY_STATE_DIR, on a disk with room";
  if ("problem" in state) return row("disk", what, "fail", state.problem.message, cure);
  const { directory, freeBytes } = state.value;
  const found = `${formatBytes(freeBytes)} free at ${directory}`;
  if (freeBytes >= DISK_BYTES_ADVISED) return row("disk", what, "ok", found);
  return row("disk", what, freeBytes < DISK_BYTES_MIN ? "fail" : "warn", found, cure);
}
