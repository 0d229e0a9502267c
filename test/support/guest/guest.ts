/**
 * An emulated machine with Debian's kernel, for what the kernel here may lack: NBD devices.
 *
 * It boots in some five seconds, with this machine's files as its own (read-only) and no network. The kernel's
 * package is downloaded once and unpacked, never installed. Emulated: function is tested there, never speed.
 *
 * @module
 */
import { execFileSync, spawn } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import path from "node:path";

import { findProgram, packageManager } from "../programs.mjs";
import { requireTool, type Requirement } from "../requires.ts";

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

function cacheFolder(): string {
  const base = process.env["XDG_CACHE_HOME"] ?? path.join(homedir(), ".cache");
  return path.join(base, "memferry", "guest");
}

/** The emulator, and a kernel or a way to get one. */
export function requireGuest(): Requirement[] {
  const tools = (["qemu-system-x86_64", "busybox", "cpio", "depmod"] as const).map((tool) =>
    requireTool(tool),
  );
  if (tools.some(({ available }) => !available)) return tools;
  try {
    kernelTree();
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
  const tree = kernelTree();
  const version = versionOf(tree);
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
    path.join(tree, "boot", `vmlinuz-${version}`),
    "-initrd",
    initramfs(tree, version),
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

/** The unpacked package of a kernel. */
function kernelTree(): string {
  const tree = path.join(cacheFolder(), "kernel");
  if (existsSync(path.join(tree, "boot"))) return tree;
  if (packageManager() !== "apt") throw new Error("only Debian's package is known");
  mkdirSync(cacheFolder(), { recursive: true });
  const work = mkdtempSync(path.join(cacheFolder(), "download-"));
  try {
    const depends = execFileSync("apt-cache", ["depends", "linux-image-amd64"], {
      encoding: "utf8",
    });
    const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
    if (name === undefined) throw new Error("apt knows no linux-image-amd64");
    // Without the sandbox user, which may not write here.
    const download = ["-o", "APT::Sandbox::User=root", "download", name];
    execFileSync("apt-get", download, { cwd: work, stdio: "ignore" });
    const [file = ""] = readdirSync(work).filter((entry) => entry.endsWith(".deb"));
    const unpacked = path.join(work, "tree");
    execFileSync("dpkg", ["-x", path.join(work, file), unpacked]);
    execFileSync(findProgram("depmod") ?? "depmod", ["-b", unpacked, versionOf(unpacked)]);
    renameSync(unpacked, tree);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return tree;
}

function versionOf(tree: string): string {
  const [version] = readdirSync(path.join(tree, "lib", "modules"));
  if (version === undefined) throw new Error(`${tree} has no modules`);
  return version;
}

/** Busybox, the modules and `init`, packed anew each time: it takes less than a second. */
function initramfs(tree: string, version: string): string {
  const work = mkdtempSync(path.join(cacheFolder(), "initramfs-"));
  const out = path.join(cacheFolder(), "initramfs.cpio");
  try {
    for (const folder of ["bin", "sbin", "dev", "proc", "sys", "tmp", "run"]) {
      mkdirSync(path.join(work, folder));
    }
    const busybox = path.join(work, "bin", "busybox");
    copyFileSync(findProgram("busybox") ?? "/bin/busybox", busybox);
    for (const applet of execFileSync(busybox, ["--list"], { encoding: "utf8" }).split("\n")) {
      if (applet !== "" && applet !== "busybox") {
        symlinkSync("busybox", path.join(work, "bin", applet));
      }
    }
    // The kernel loads what it needs by itself through this path.
    symlinkSync("../bin/busybox", path.join(work, "sbin", "modprobe"));
    for (const module of MODULES) {
      for (const file of filesOfModule(tree, version, module)) {
        const to = path.join(work, path.relative(tree, file));
        mkdirSync(path.dirname(to), { recursive: true });
        copyFileSync(file, to);
      }
    }
    const modules = path.join("lib", "modules", version);
    for (const list of ["modules.builtin", "modules.order", "modules.builtin.modinfo"]) {
      const from = path.join(tree, modules, list);
      if (existsSync(from)) copyFileSync(from, path.join(work, modules, list));
    }
    execFileSync(findProgram("depmod") ?? "depmod", ["-b", work, version]);
    writeFileSync(path.join(work, "modules.wanted"), `${MODULES.join("\n")}\n`);
    copyFileSync(path.join(import.meta.dirname, "init"), path.join(work, "init"));
    chmodSync(path.join(work, "init"), 0o755);
    execFileSync("/bin/sh", ["-c", `find . | cpio -o -H newc --quiet > ${out}`], { cwd: work });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return out;
}

/** A module and what it needs. */
function filesOfModule(tree: string, version: string, module: string): string[] {
  try {
    const said = execFileSync(
      findProgram("modprobe") ?? "modprobe",
      ["-d", tree, "-S", version, "--show-depends", module],
      { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] },
    );
    return [...said.matchAll(/^insmod (\S+)/gm)].flatMap(([, file]) => file ?? []);
  } catch {
    return []; // built in, or of another architecture
  }
}
