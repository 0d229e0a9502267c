/**
 * What an agent says of its host: what it can do, what it offers, and what is wrong with it.
 *
 * @module
 */
import { statfs, stat } from "node:fs/promises";
import { hostname, platform, arch } from "node:os";
import { probeHost } from "../doctor/host-probes.ts";
import { probeNetwork } from "../doctor/network-probes.ts";
import { VERSION } from "../version.ts";
import type { AgentConfig } from "./config.ts";
import type { AgentIdentity } from "./identity.ts";

/** @param how `directory`: the agent's state; `natClass`: as `natClassOf` found it. */
export async function hostReport(
  config: AgentConfig,
  { directory, natClass }: { readonly directory: string; readonly natClass: string },
) {
  const host = await probeHost(directory);
  const native = "value" in host.native ? host.native.value : undefined;
  const capabilities = [
    ...(native?.fuse.available === true ? ["fuse"] : []),
    "nbd",
    ...(host.hasNbd ? ["nbdKernel"] : []),
    ...(host.hasLoop ? ["loop"] : []),
    ...(native?.uffd.available === true ? ["uffd"] : []),
    ...(natClass === "none" || natClass.startsWith("endpoint") ? ["direct"] : []),
  ];
  const problems = "problem" in host.native ? ["the addon does not load"] : [];
  const regions = [];
  for (const { name, kind, file, chunkBytes } of config.regions.values()) {
    try {
      const { size } = await stat(file);
      if (size > 0) regions.push({ name, kind, bytes: size, chunkBytes });
      else problems.push(`region ${name} is empty`);
    } catch {
      problems.push(`region ${name} is not there`);
    }
  }
  let diskFreeBytes: number | null = null;
  for (const { name, path } of config.directories.values()) {
    try {
      const { bavail, bsize } = await statfs(path);
      diskFreeBytes = Math.max(diskFreeBytes ?? 0, bavail * bsize);
    } catch {
      problems.push(`directory ${name} is not there`);
    }
  }
  return {
    type: "report",
    host: hostname(),
    ...(config.zone === undefined ? {} : { zone: config.zone }),
    version: VERSION,
    platform: `${platform()}-${arch()}`,
    kernel: host.kernel,
    capabilities,
    natClass,
    diskFreeBytes,
    hooks: [...config.hooks.keys()],
    directories: [...config.directories.keys()],
    exports: [...config.exports.keys()],
    regions,
    problems: problems.slice(0, 16),
  } as const;
}

/** How the network between here and the relay treats UDP. */
export async function natClassOf({ relay }: AgentIdentity): Promise<string> {
  try {
    const { discovery } = await probeNetwork({
      url: relay.url,
      certificateHashes: relay.certificateHashes,
      relayIdentity: relay.identity,
      key: undefined,
    });
    return "value" in discovery ? discovery.value.nat : "unknown";
  } catch {
    // A hint for people; without it nothing is worse than before.
    return "unknown";
  }
}
