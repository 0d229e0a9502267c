/**
 * An emulated machine with Debian's kernel, for what the kernel here may lack: NBD devices.
 *
 * It boots in some five seconds, with this machine's files as its own (read-only) and no network. Emulated: function
 * is tested there, never speed.
 *
 * @module
 */
import { spawn } from "node:child_process";
import path from "node:path";

import { requireTool, type Requirement } from "../requires.ts";
import { debianKernel, guestCache, packInitramfs } from "./kernel.ts";

const PROJECT = path.join(import.meta.dirname, "../../..");
const MODULES = [
  "virtio_pci",
  "virtio_rng",
  "9p",
  "9pnet_virtio",
  "overlay",
  "nbd",
  "fuse",
  "loop",
  "ext4",
  "crc32c_generic",
  "crc32c_intel",
  "libcrc32c",
];

export interface GuestResult {
  readonly output: string;
  /** Whether the machine came up: if not, this one cannot emulate it. */
  readonly ready: boolean;
  /** The command's exit code; `undefined` if it did not end in time. */
  readonly code: number | undefined;
}

export interface GuestOptions {
  readonly limitMs?: number;
  readonly memoryMib?: number;
}

/** The emulator, and a kernel or a way to get one. */
export function requireGuest(): Requirement[] {
  const tools = (["qemu-system-x86_64", "busybox", "cpio", "depmod"] as const).map((tool) =>
    requireTool(tool),
  );
  if (tools.some(({ available }) => !available)) return tools;
  try {
    debianKernel();
  } catch (error) {
    const skipReason = `no kernel for the guest: ${String(error)}; on Debian: sudo apt-get update`;
    return [{ available: false, path: "", skipReason }];
  }
  return tools;
}

/** Runs a shell command as root in a guest that is there for it alone. */
export async function runInGuest(
  command: string,
  { limitMs = 280_000, memoryMib = 2048 }: GuestOptions = {},
): Promise<GuestResult> {
  const kernel = debianKernel();
  const initrd = path.join(guestCache(), "initramfs.cpio");
  const init = path.join(import.meta.dirname, "init");
  packInitramfs({ init, out: initrd, modules: { kernel, names: MODULES } });
  const base64 = (text: string): string => Buffer.from(text).toString("base64");
  const kernelArguments = [
    "console=ttyS0 quiet panic=-1 tsc=reliable random.trust_cpu=1 mitigations=off nokaslr audit=0",
    `guest.command=${base64(command)} guest.project=${base64(PROJECT)}`,
  ];
  const args = [
    ..."-M pc -accel tcg,thread=multi,tb-size=512 -cpu max,pku=off -smp 2".split(" "),
    ..."-nodefaults -no-user-config -no-reboot -display none -serial stdio -nic none".split(" "),
    "-device",
    "virtio-rng-pci",
    "-m",
    String(memoryMib),
    "-kernel",
    kernel.image,
    "-initrd",
    initrd,
    "-append",
    kernelArguments.join(" "),
    "-virtfs",
    "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
  ];
  const child = spawn("qemu-system-x86_64", args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => (output += text));
  }
  const timer = setTimeout(() => child.kill("SIGKILL"), limitMs);
  await new Promise((resolve) => child.once("close", resolve));
  clearTimeout(timer);
  const code = /GUEST-ENDED (\d+)/.exec(output)?.[1];
  return {
    output,
    ready: output.includes("GUEST-READY"),
    code: code === undefined ? undefined : Number(code),
  };
}
