/**
 * `--path` and its kin: which way the migration's bytes go.
 *
 * @module
 */
import { isIP } from "node:net";
import type { SocketAddress } from "../net/paths/datagram.ts";
import type { PathEvent } from "../net/paths/path-manager.ts";
import { PATH_POLICIES } from "../net/paths/path-policy.ts";
import type { PathOptions } from "../net/paths/session-paths.ts";
import { usage, type Arguments, type OptionSpec } from "./command-line.ts";
import type { Output } from "./output.ts";

const DIRECT_ADDRESSES_MAX = 4;

export const PATH_OPTIONS = {
  path: {
    value: "WAY",
    help: "auto (directly to the other peer where the network lets it), relay or direct; default auto",
  },
  "direct-port": { value: "PORT", help: "local UDP port of a direct path (default: a free one)" },
  "direct-address": {
    value: "ADDRESS:PORT",
    repeatable: true,
    help: "where a firewall forwards UDP to --direct-port; may be given 4 times",
  },
  "port-mapping": { help: "ask this network's router to let the direct path's port in (NAT-PMP)" },
} as const satisfies Readonly<Record<string, OptionSpec>>;

/** @throws MigrationError `USAGE` */
export function pathOptions(args: Arguments): PathOptions {
  const port = args.text("direct-port");
  if (port !== undefined && !isPort(port)) {
    throw usage(`--direct-port ${port} is no port: use 1 to 65535`);
  }
  const configured = args.texts("direct-address").map(socketAddress);
  if (configured.length > DIRECT_ADDRESSES_MAX) {
    throw usage(`--direct-address may be given ${DIRECT_ADDRESSES_MAX} times`);
  }
  if (configured.length > 0 && port === undefined) {
    throw usage("--direct-address needs --direct-port, to which it is forwarded");
  }
  return {
    policy: args.oneOf("path", PATH_POLICIES, "auto"),
    port: port === undefined ? undefined : Number(port),
    configured,
    portMapping: args.flag("port-mapping"),
  };
}

export function showPathEvent(output: Output, event: PathEvent): void {
  output.event({ ...event });
  if (event.event === "pathAttempt") return;
  if (event.path === "direct") output.note(`direct path to ${event.remote ?? "the other peer"}`);
  else output.note(`back to the relay: ${event.reason}`);
}

function socketAddress(text: string): SocketAddress {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):(\d{1,5})$/.exec(text);
  const address = match?.[1] ?? match?.[2] ?? "";
  const port = match?.[3] ?? "";
  if (isIP(address) === 0 || !isPort(port)) {
    throw usage(`--direct-address ${text}: use ADDRESS:PORT, an IPv6 address in brackets`);
  }
  return { address, port: Number(port) };
}

function isPort(text: string): boolean {
  return /^\d{1,5}$/.test(text) && Number(text) >= 1 && Number(text) <= 65_535;
}
