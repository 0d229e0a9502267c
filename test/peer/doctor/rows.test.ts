import { expect, test } from "vitest";

import { softLimit } from "../../../peer/doctor/host-probes.ts";
import { rows, table, type Row, type RowStatus } from "../../../peer/doctor/rows.ts";
import type { HostSnapshot, NetworkSnapshot, Problem } from "../../../peer/doctor/snapshot.ts";

const MiB = 1024 ** 2;
const HASH = "ab".repeat(32);

const host: HostSnapshot = {
  nodeVersion: "24.21.0",
  kernel: "6.12.0",
  native: {
    value: {
      uffd: { available: true, tracking: "async", shared: true },
      fuse: { available: true },
    },
  },
  hasFuseDevice: true,
  hasFusermount: true,
  hasNbd: true,
  hasLoop: true,
  webTransport: { name: "rwebtransport" },
  hasBufferutil: true,
  openFilesMax: 65_536,
  lockedBytesMax: Infinity,
  receiveBytesDefault: 4 * MiB,
  receiveBytesMax: 16 * MiB,
  sendBytesMax: 16 * MiB,
  tcpSendBytesMax: 16 * MiB,
  congestionControls: ["cubic", "bbr"],
  state: { value: { directory: "/state", freeBytes: 100 * 1024 * MiB } },
};

const network: NetworkSnapshot = {
  url: "https://relay.example:8443",
  host: "relay.example",
  port: 8443,
  proxy: undefined,
  name: { value: { ipv4: ["203.0.113.1"], ipv6: ["2001:db8::1"] } },
  tcp: { 4: { value: { ms: 20 } }, 6: { value: { ms: 21 } } },
  tls: { value: { trust: "pinned", hash: HASH, ms: 40 } },
  webSocket: { value: { ms: 60 } },
  webTransport: { value: { ms: 60 } },
  clock: { value: { aheadMs: 300 } },
  key: { value: { ms: 60 } },
  discovery: {
    value: {
      ports: [8444, 8445],
      mappings: [{ family: 4, address: "198.51.100.9", port: 50_000 }],
      nat: "endpoint-independent",
      families: { 4: "endpoint-independent" },
    },
  },
  mtu: { value: { device: "eth0", bytes: 1500 } },
};

const problem = (code: string, message = code): { readonly problem: Problem } => ({
  problem: { code, message },
});
const refused = problem("ECONNREFUSED", "connect ECONNREFUSED 203.0.113.1:8443");
const late = problem("DEADLINE_EXCEEDED", "no answer within 5 s");
const skipped = problem("SKIPPED", "no TLS connection to the relay");

function find(id: string, change: Partial<NetworkSnapshot>, here: Partial<HostSnapshot> = {}): Row {
  const all = rows({ host: { ...host, ...here }, network: { ...network, ...change } });
  const found = all.find((row) => row.id === id);
  if (found === undefined) throw new Error(`no row ${id}`);
  return found;
}

const families = (
  nat: "none" | "endpoint-dependent",
  six?: "none",
): NetworkSnapshot["discovery"] => ({
  value: {
    ports: [8444, 8445],
    mappings: [],
    nat,
    families: six === undefined ? { 4: nat } : { 4: nat, 6: six },
  },
});
const blocked: NetworkSnapshot["discovery"] = {
  value: { ports: [8444, 8445], mappings: [], nat: "udp-blocked", families: {} },
};

test("rows() of a host on which everything works has nothing to do", () => {
  const all = rows({ host, network });
  expect(all.filter(({ status, cure }) => status !== "ok" || cure !== undefined)).toEqual([]);
  expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
});

test.each<[string, string, Partial<NetworkSnapshot>, RowStatus, string, string]>([
  [
    "no such name",
    "name",
    { name: problem("ENOTFOUND"), tcp: {} },
    "fail",
    "ENOTFOUND",
    "getent ahosts relay.example",
  ],
  [
    "a name that the proxy knows",
    "name",
    { name: problem("ENOTFOUND"), tcp: {}, proxy: "proxy:3128" },
    "warn",
    "the proxy may",
    "getent",
  ],
  [
    "TCP refused",
    "tcp",
    { tcp: { 4: refused }, tls: refused, webTransport: late },
    "fail",
    "IPv4: refused",
    "memferry relay",
  ],
  [
    "TCP filtered",
    "tcp",
    { tcp: { 4: late, 6: late }, tls: late, webTransport: late },
    "fail",
    "no answer",
    "sudo ufw allow 8443/tcp",
  ],
  [
    "TCP filtered, QUIC open",
    "tcp",
    { tcp: { 4: late }, tls: late, webSocket: skipped },
    "warn",
    "no answer",
    "8443/tcp",
  ],
  [
    "a proxy that fails",
    "proxy",
    { proxy: "proxy:3128", tls: problem("PROXY_REFUSED") },
    "warn",
    "proxy:3128",
    "NO_PROXY=relay.example",
  ],
  [
    "a proxy that refuses",
    "tls",
    { proxy: "proxy:3128", tls: problem("PROXY_REFUSED") },
    "fail",
    "PROXY_REFUSED",
    "NO_PROXY=relay.example",
  ],
  [
    "another certificate",
    "tls",
    { tls: problem("CERTIFICATE_MISMATCH") },
    "fail",
    "MISMATCH",
    "memferry login https://relay.example:8443",
  ],
  [
    "a certificate not known yet",
    "tls",
    { tls: { value: { trust: "unknown", hash: HASH, ms: 1 } } },
    "warn",
    "leech",
    `--certificate-hash ${HASH}`,
  ],
  [
    "no TLS",
    "tls",
    { tls: problem("ECONNRESET") },
    "fail",
    "ECONNRESET",
    "openssl s_client -connect relay.example:8443",
  ],
  ["WebSocket filtered", "websocket", { webSocket: late }, "warn", "no answer", "Upgrade"],
  [
    "neither link",
    "websocket",
    { webSocket: late, webTransport: late },
    "fail",
    "no answer",
    "Upgrade",
  ],
  [
    "QUIC filtered",
    "webtransport",
    { webTransport: late },
    "warn",
    "WebSocket is used",
    "8443/udp",
  ],
  [
    "neither link",
    "webtransport",
    { webSocket: skipped, webTransport: late },
    "fail",
    "no answer",
    "8443/udp",
  ],
  ["a wrong key", "key", { key: problem("UNAUTHENTICATED") }, "warn", "UNAUTH", "memferry login"],
  [
    "a relay without discovery",
    "udp",
    { discovery: problem("RELAY_REFUSED") },
    "warn",
    "nothing is direct",
    "--discovery-ports 8444,8445",
  ],
  [
    "UDP blocked",
    "udp",
    { discovery: blocked },
    "warn",
    "8444 and 8445",
    "sudo ufw allow 8444:8445/udp",
  ],
  [
    "a hard NAT",
    "nat",
    { discovery: families("endpoint-dependent") },
    "warn",
    "endpoint-dependent",
    "--direct-address",
  ],
  [
    "a small MTU",
    "mtu",
    { mtu: { value: { device: "tun0", bytes: 1000 } } },
    "warn",
    "1000 bytes",
    "ip link set dev tun0 mtu",
  ],
  [
    "a clock ahead",
    "clock",
    { clock: { value: { aheadMs: 7_200_000 } } },
    "warn",
    "2 h ahead",
    "timedatectl",
  ],
  [
    "a clock behind",
    "clock",
    { clock: { value: { aheadMs: -90_000 } } },
    "warn",
    "90 s behind",
    "timedatectl",
  ],
])("rows(): %s: %s", (_name, id, change, status, found, cure) => {
  const row = find(id, change);
  expect(row.status).toBe(status);
  expect(row.found).toContain(found);
  expect(row.cure).toContain(cure);
});

test.each<[string, string, Partial<NetworkSnapshot>, RowStatus]>([
  ["one family of two", "tcp", { tcp: { 4: { value: { ms: 2 } }, 6: late } }, "ok"],
  ["only by a proxy", "tcp", { tcp: { 4: late }, proxy: "proxy:3128" }, "ok"],
  ["a proxy that works", "proxy", { proxy: "proxy:3128" }, "ok"],
  ["no key", "key", { key: undefined }, "ok"],
  ["a hard NAT, and IPv6", "nat", { discovery: families("endpoint-dependent", "none") }, "ok"],
  ["no NAT", "nat", { discovery: families("none") }, "ok"],
  ["a tunnel", "mtu", { mtu: { value: { device: "wg0", bytes: 1420 } } }, "ok"],
  ["a clock a little ahead", "clock", { clock: { value: { aheadMs: 10_000 } } }, "ok"],
  ["TLS where TCP is not", "tls", { tcp: { 4: late }, tls: late }, "unknown"],
  ["WebSocket where TLS is not", "websocket", { webSocket: skipped }, "unknown"],
  ["NAT where UDP is not", "nat", { discovery: blocked }, "unknown"],
])("rows(): %s: %s is nothing to do", (_name, id, change, status) => {
  const row = find(id, change);
  expect(row.status).toBe(status);
  expect(row.cure).toBeUndefined();
});

test.each<[string, Partial<HostSnapshot>, RowStatus, string]>([
  ["node", { nodeVersion: "22.17.1" }, "fail", "Node 22.18"],
  ["node", { nodeVersion: "20.20.2" }, "fail", "Node 22.18"],
  ["addon", { native: problem("ENOENT") }, "fail", "npm rebuild"],
  [
    "uffd",
    { native: { value: { uffd: { available: false, reason: "no" }, fuse: { available: true } } } },
    "warn",
    "vm.unprivileged_userfaultfd=1",
  ],
  [
    "tracking",
    {
      native: { value: { uffd: { available: true, tracking: "sync" }, fuse: { available: true } } },
    },
    "warn",
    "6.7",
  ],
  [
    "fuse",
    {
      hasFuseDevice: false,
      native: { value: { uffd: { available: true }, fuse: { available: false } } },
    },
    "warn",
    "modprobe fuse",
  ],
  [
    "fuse",
    {
      native: {
        value: { uffd: { available: true }, fuse: { available: false, remedy: "install fuse3" } },
      },
    },
    "warn",
    "install fuse3",
  ],
  ["nbd", { hasNbd: false }, "warn", "modprobe nbd"],
  ["loop", { hasLoop: false }, "warn", "modprobe loop"],
  ["library", { webTransport: { unavailable: "none" } }, "warn", "npm install rwebtransport"],
  ["bufferutil", { hasBufferutil: false }, "warn", "npm install bufferutil"],
  ["files", { openFilesMax: 256 }, "warn", "ulimit -n"],
  ["udpBuffers", { receiveBytesMax: 212_992 }, "warn", "net.core.rmem_max=16777216"],
  ["udpBuffers", { sendBytesMax: 212_992 }, "warn", "net.core.wmem_max=16777216"],
  ["udpBuffers", { receiveBytesDefault: 212_992 }, "warn", "net.core.rmem_default=4194304"],
  ["tcpBuffers", { tcpSendBytesMax: MiB }, "warn", "net.ipv4.tcp_wmem"],
  ["congestion", { congestionControls: ["cubic"] }, "warn", "modprobe tcp_bbr"],
  [
    "disk",
    { state: { value: { directory: "/s", freeBytes: 100 * MiB } } },
    "warn",
    "MEMFERRY_STATE_DIR",
  ],
  ["disk", { state: { value: { directory: "/s", freeBytes: MiB } } }, "fail", "MEMFERRY_STATE_DIR"],
  ["disk", { state: problem("EACCES") }, "fail", "MEMFERRY_STATE_DIR"],
])("rows() of a host: %s %j", (id, here, status, cure) => {
  const row = find(id, {}, here);
  expect(row.status).toBe(status);
  expect(row.cure).toContain(cure);
});

test("rows() of a host that shows nothing of itself knows nothing and asks for nothing", () => {
  const nothing = {
    openFilesMax: undefined,
    lockedBytesMax: undefined,
    receiveBytesDefault: undefined,
    receiveBytesMax: undefined,
    sendBytesMax: undefined,
    tcpSendBytesMax: undefined,
    congestionControls: [],
  };
  for (const id of ["files", "memlock", "udpBuffers", "tcpBuffers", "congestion"]) {
    expect(find(id, {}, nothing)).toMatchObject({ status: "unknown", cure: undefined });
  }
});

test("rows(): whatever is wrong is told with what to do", () => {
  const worst = rows({
    host: {
      ...host,
      nodeVersion: "18.0.0",
      native: problem("ENOENT"),
      hasNbd: false,
      hasLoop: false,
      webTransport: { unavailable: "none" },
      hasBufferutil: false,
      openFilesMax: 1,
      receiveBytesMax: 1,
      tcpSendBytesMax: 1,
      congestionControls: ["reno"],
      state: problem("EACCES"),
    },
    network: {
      ...network,
      name: problem("ENOTFOUND"),
      tcp: {},
      tls: late,
      webSocket: skipped,
      webTransport: late,
      clock: skipped,
      key: skipped,
      discovery: skipped,
      mtu: skipped,
    },
  });
  for (const { status, cure, id } of worst) {
    expect(cure === undefined, id).toBe(status === "ok" || status === "unknown");
  }
  expect(rows({ host, network: undefined })[0]).toMatchObject({
    id: "relay",
    status: "unknown",
    cure: "memferry doctor --relay https://HOST:PORT",
  });
});

test("table() has a line for each row, one more for what to do, and no control characters", () => {
  const change = { webSocket: problem("X", "\u001b[31mred\nnext") };
  const lines = table(rows({ host, network: { ...network, ...change } }));
  expect(lines.join("")).not.toMatch(/\p{Cc}/u);
  expect(lines.find((line) => line.includes("WebSocket  "))).toMatch(
    /^ {2}warn {2}WebSocket +\?\[31mred\?next$/,
  );
  expect(lines.filter((line) => line.includes("to do: "))).toHaveLength(1);
});

test("softLimit() reads /proc/self/limits", () => {
  const text =
    "Limit      Soft Limit  Hard Limit  Units\nMax open files   1024   4096   files\nMax locked memory   unlimited   unlimited   bytes\n";
  expect(softLimit(text, "Max open files")).toBe(1024);
  expect(softLimit(text, "Max locked memory")).toBe(Infinity);
  expect(softLimit(text, "Max processes")).toBeUndefined();
  expect(softLimit("", "Max open files")).toBeUndefined();
});
