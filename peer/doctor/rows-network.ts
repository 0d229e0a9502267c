/**
 * The rows about the way to the relay.
 *
 * @module
 */
import type { Row, RowStatus } from "./rows.ts";
import type { HostSnapshot, NetworkSnapshot, Probed, Problem, Timed } from "./snapshot.ts";

/** IPv6's least; a QUIC packet needs 1,200 bytes of payload. */
const MTU_MIN = 1_280;
/** Usual in Ethernet: less means a tunnel. */
const MTU_USUAL = 1_500;
/** Beyond this, times in logs do not fit together, and a certificate may not be good yet, or no more. */
const CLOCK_WARN_MS = 30_000;

export function networkRows(network: NetworkSnapshot, host: HostSnapshot): Row[] {
  return [
    nameRow(network),
    proxyRow(network),
    tcpRow(network),
    tlsRow(network),
    webSocketRow(network),
    webTransportRow(network, host),
    keyRow(network),
    discoveryRow(network),
    natRow(network),
    mtuRow(network),
    clockRow(network),
  ];
}

const row = (id: string, what: string, status: RowStatus, found: string, cure?: string): Row => ({
  id,
  what,
  status,
  found: printable(found),
  cure,
});

/** Some of it is another's words: nothing of them may steer a terminal. */
function printable(text: string): string {
  return text.replaceAll(/[^\p{L}\p{N}\p{P}\p{S} ]/gu, "?");
}

function millis({ ms }: Timed): string {
  return `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
}

function isUp(probed: Probed<unknown> | undefined): boolean {
  return probed !== undefined && "value" in probed;
}

function isSkipped({ code }: Problem): boolean {
  return code === "SKIPPED";
}

function nameRow({ name, host, proxy }: NetworkSnapshot): Row {
  const what = "name resolves";
  if ("value" in name) {
    const { ipv4, ipv6 } = name.value;
    const found = [...ipv4, ...ipv6].join(", ");
    return found === ""
      ? row("name", what, "fail", "it has no address", `getent ahosts ${host}`)
      : row("name", what, "ok", found);
  }
  const { message } = name.problem;
  // A proxy resolves it where it stands.
  return proxy === undefined
    ? row(
        "name",
        what,
        "fail",
        message,
        `getent ahosts ${host}; correct --relay or /etc/resolv.conf`,
      )
    : row("name", what, "warn", `${message}; the proxy may know it`, `getent ahosts ${host}`);
}

function proxyRow({ proxy, host, tls }: NetworkSnapshot): Row {
  const what = "HTTP proxy";
  if (proxy === undefined) return row("proxy", what, "ok", "none (HTTPS_PROXY is not set)");
  if ("value" in tls) return row("proxy", what, "ok", `TCP goes through ${proxy}`);
  return row(
    "proxy",
    what,
    "warn",
    `TCP goes through ${proxy}, and nothing came through`,
    `NO_PROXY=${host} memferry doctor ...; or correct HTTPS_PROXY`,
  );
}

function tcpRow({ tcp, name, port, proxy, webTransport }: NetworkSnapshot): Row {
  const what = "TCP";
  const families = ([4, 6] as const).flatMap((family) => {
    const probed = tcp[family];
    return probed === undefined ? [] : [{ label: `IPv${family}`, probed }];
  });
  if (families.length === 0) {
    const why = "problem" in name ? "the name does not resolve" : "no address";
    return row("tcp", what, "unknown", why);
  }
  const found = families
    .map(({ label, probed }) =>
      "value" in probed
        ? `${label} ${millis(probed.value)}`
        : `${label}: ${reasonOf(probed.problem)}`,
    )
    .join(", ");
  if (families.every(({ probed }) => isUp(probed))) return row("tcp", what, "ok", found);
  if (families.some(({ probed }) => isUp(probed))) {
    return row("tcp", what, "ok", `${found}; the other is used`);
  }
  if (proxy !== undefined) return row("tcp", what, "ok", `not directly (${found})`);
  const status = isUp(webTransport) ? "warn" : "fail";
  return row("tcp", what, status, found, tcpCure(families[0]?.probed, port));
}

function reasonOf({ code, message }: Problem): string {
  return code === "ECONNREFUSED" ? "refused" : message;
}

function tcpCure(probed: Probed<unknown> | undefined, port: number): string {
  return probed !== undefined && "problem" in probed && probed.problem.code === "ECONNREFUSED"
    ? `start \`memferry relay\` there, with --listen 0.0.0.0:${port} if it listens at loopback only`
    : `let TCP ${port} through, at the relay: sudo ufw allow ${port}/tcp, and in its cloud's firewall`;
}

function tlsRow({ tls, tcp, proxy, url, host, port }: NetworkSnapshot): Row {
  const what = "TLS, certificate";
  if ("problem" in tls && proxy === undefined && !Object.values(tcp).some(isUp)) {
    return row("tls", what, "unknown", "no TCP connection to the relay");
  }
  if ("problem" in tls) {
    const { code, message } = tls.problem;
    const found = message;
    switch (code) {
      case "CERTIFICATE_MISMATCH":
        return row(
          "tls",
          what,
          "fail",
          found,
          `compare with what the relay printed, then: memferry login ${url} --certificate-hash SHA256`,
        );
      case "PROXY_INVALID":
      case "PROXY_UNREACHABLE":
      case "PROXY_REFUSED":
        return row("tls", what, "fail", found, `NO_PROXY=${host}, or correct HTTPS_PROXY`);
      default:
        return row(
          "tls",
          what,
          "fail",
          found,
          `openssl s_client -connect ${host.includes(":") ? `[${host}]` : host}:${port} shows what answers there`,
        );
    }
  }
  const { trust, hash } = tls.value;
  const time = millis(tls.value);
  if (trust === "pinned")
    return row("tls", what, "ok", `known by its hash ${short(hash)}, ${time}`);
  if (trust === "system") return row("tls", what, "ok", `trusted by this system, ${time}`);
  return row(
    "tls",
    what,
    "warn",
    `its own, not known here: enough for \`leech\`, whose ticket names it, not for \`seed\`; ${time}`,
    `if the relay printed this hash: memferry login ${url} --certificate-hash ${hash}`,
  );
}

function short(hash: string): string {
  return `${hash.slice(0, 12)}...`;
}

function webSocketRow({ webSocket, webTransport, url, proxy }: NetworkSnapshot): Row {
  const what = "WebSocket";
  if ("value" in webSocket)
    return row("websocket", what, "ok", `opens in ${millis(webSocket.value)}`);
  const { problem } = webSocket;
  if (isSkipped(problem)) return row("websocket", what, "unknown", problem.message);
  const cure =
    proxy === undefined
      ? `curl -sk ${url}/livez tells what answers there: a reverse proxy must pass Upgrade on /link`
      : "let the proxy pass CONNECT without looking inside, or name the relay in NO_PROXY";
  return row("websocket", what, isUp(webTransport) ? "warn" : "fail", problem.message, cure);
}

function webTransportRow(
  { webTransport, port, webSocket }: NetworkSnapshot,
  { webTransport: library }: HostSnapshot,
): Row {
  const what = "QUIC, WebTransport";
  if ("value" in webTransport) {
    return row("webtransport", what, "ok", `opens in ${millis(webTransport.value)}`);
  }
  const { problem } = webTransport;
  if (isSkipped(problem)) return row("webtransport", what, "unknown", problem.message);
  if ("unavailable" in library) {
    return row("webtransport", what, "unknown", "no library for it here: see below");
  }
  const fallback = isUp(webSocket) ? "; WebSocket is used" : "";
  return row(
    "webtransport",
    what,
    isUp(webSocket) ? "warn" : "fail",
    `${problem.message}${fallback}`,
    `let UDP ${port} through, at the relay: sudo ufw allow ${port}/udp, and in firewalls between`,
  );
}

function keyRow({ key, url }: NetworkSnapshot): Row {
  const what = "API key";
  if (key === undefined) {
    return row("key", what, "ok", "none is known here: `leech` needs none, `seed` does");
  }
  if ("value" in key) return row("key", what, "ok", "the relay takes it");
  const { problem } = key;
  if (isSkipped(problem)) return row("key", what, "unknown", problem.message);
  return row("key", what, "warn", problem.message, `memferry login ${url} --key-file FILE`);
}

function discoveryRow({ discovery, port }: NetworkSnapshot): Row {
  const what = "UDP to the relay";
  if ("problem" in discovery) {
    const { problem } = discovery;
    if (isSkipped(problem)) return row("udp", what, "unknown", problem.message);
    return problem.code === "RELAY_REFUSED"
      ? row(
          "udp",
          what,
          "warn",
          "the relay does not tell addresses, so nothing is direct",
          `memferry relay --discovery-ports ${port + 1},${port + 2} ...`,
        )
      : row("udp", what, "warn", problem.message, "memferry doctor, once more");
  }
  const { ports, mappings, nat } = discovery.value;
  const [first, second] = ports;
  if (nat === "udp-blocked") {
    return row(
      "udp",
      what,
      "warn",
      `no answer from ports ${first} and ${second}: nothing is direct`,
      `let UDP ${first} and ${second} through: at the relay sudo ufw allow ${first}:${second}/udp, and out of this network`,
    );
  }
  const seen = mappings.map(({ address }) => address);
  return row("udp", what, "ok", `the relay sees ${[...new Set(seen)].join(", ")}`);
}

function natRow({ discovery }: NetworkSnapshot): Row {
  const what = "direct paths (NAT)";
  if ("problem" in discovery || discovery.value.nat === "udp-blocked") {
    return row("nat", what, "unknown", "UDP to the relay does not work");
  }
  const families = ([4, 6] as const).flatMap((family) => {
    const nat = discovery.value.families[family];
    return nat === undefined ? [] : [`IPv${family}: ${nat}`];
  });
  const found = families.join(", ");
  // One family that is easy is enough where the other peer has it too.
  const all = Object.values(discovery.value.families);
  if (all.some((nat) => nat !== "endpoint-dependent")) {
    const isNone = discovery.value.nat === "none";
    return row("nat", what, "ok", `${found}${isNone ? "" : "; most peers can be reached"}`);
  }
  return row(
    "nat",
    what,
    "warn",
    `${found}: only peers without such a NAT can be reached`,
    "forward a UDP port to this host, then: memferry leech --direct-port PORT --direct-address ADDRESS:PORT ...",
  );
}

function mtuRow({ mtu }: NetworkSnapshot): Row {
  const what = "MTU to the relay";
  if ("problem" in mtu) return row("mtu", what, "unknown", mtu.problem.message);
  const { bytes, device } = mtu.value;
  const found = `${bytes} bytes, by ${device}`;
  if (bytes < MTU_MIN) {
    const cure = `sudo ip link set dev ${device} mtu ${MTU_USUAL}`;
    return row("mtu", what, "warn", `${found}: too little for QUIC and IPv6`, cure);
  }
  return row("mtu", what, "ok", bytes < MTU_USUAL ? `${found}: a tunnel` : found);
}

function clockRow({ clock }: NetworkSnapshot): Row {
  const what = "clock";
  if ("problem" in clock) {
    const { problem } = clock;
    return row("clock", what, "unknown", problem.message);
  }
  const { aheadMs } = clock.value;
  const seconds = Math.abs(aheadMs) / 1000;
  // The relay tells whole seconds.
  if (seconds <= 2) return row("clock", what, "ok", "as the relay's, to a second or two");
  const shift = `${spanOf(seconds)} ${aheadMs > 0 ? "ahead of" : "behind"} the relay's`;
  const effect = "tickets expire by the relay's clock, certificates by this one";
  return seconds * 1000 <= CLOCK_WARN_MS
    ? row("clock", what, "ok", shift)
    : row(
        "clock",
        what,
        "warn",
        `${shift}: ${effect}`,
        "sudo timedatectl set-ntp true, on the host whose clock is wrong",
      );
}

function spanOf(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3_600)} h`;
}
