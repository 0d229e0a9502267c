/**
 * Debian's kernel, and what a machine boots from with it.
 *
 * The kernel's package is downloaded once, by the name that apt knows it by, and unpacked, never installed.
 *
 * @module
 */
import { execFileSync } from "node:child_process";
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

export interface Kernel {
  /** The unpacked package. */
  readonly tree: string;
  readonly version: string;
  /** What an emulator starts. */
  readonly image: string;
}

export interface Initramfs {
  /** The first process: a script for busybox. */
  readonly init: string;
  /** The archive that is made. */
  readonly out: string;
  /** Of `kernel`, each with what it needs; their names are in `/modules.wanted`. */
  readonly modules?: { readonly kernel: Kernel; readonly names: readonly string[] };
}

export function guestCache(): string {
  const base = process.env["XDG_CACHE_HOME"] ?? path.join(homedir(), ".cache");
  return path.join(base, "memferry", "guest");
}

/** @throws Error with what to type, if there is none and none is to be had */
export function debianKernel(): Kernel {
  const tree = path.join(guestCache(), "kernel");
  if (!existsSync(path.join(tree, "boot"))) download(tree);
  const version = versionOf(tree);
  return { tree, version, image: path.join(tree, "boot", `vmlinuz-${version}`) };
}

function download(tree: string): void {
  if (packageManager() !== "apt") throw new Error("only Debian's package is known");
  mkdirSync(guestCache(), { recursive: true });
  const work = mkdtempSync(path.join(guestCache(), "download-"));
  try {
    const depends = execFileSync("apt-cache", ["depends", "linux-image-amd64"], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
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
}

function versionOf(tree: string): string {
  const [version] = readdirSync(path.join(tree, "lib", "modules"));
  if (version === undefined) throw new Error(`${tree} has no modules`);
  return version;
}

/** Busybox, `init` and the modules, packed anew each time: it takes less than a second. */
export function packInitramfs({ init, out, modules }: Initramfs): void {
  const work = mkdtempSync(path.join(path.dirname(out), "initramfs-"));
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
    if (modules !== undefined) addModules(work, modules.kernel, modules.names);
    copyFileSync(init, path.join(work, "init"));
    chmodSync(path.join(work, "init"), 0o755);
    execFileSync("/bin/sh", ["-c", 'find . | cpio -o -H newc --quiet > "$OUT"'], {
      cwd: work,
      env: { ...process.env, OUT: out },
    });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function addModules(work: string, kernel: Kernel, names: readonly string[]): void {
  const { tree, version } = kernel;
  // The kernel loads what it needs by itself through this path.
  symlinkSync("../bin/busybox", path.join(work, "sbin", "modprobe"));
  for (const name of names) {
    for (const file of filesOfModule(kernel, name)) {
      const to = path.join(work, path.relative(tree, file));
      mkdirSync(path.dirname(to), { recursive: true });
      copyFileSync(file, to);
    }
  }
  const folder = path.join("lib", "modules", version);
  for (const list of ["modules.builtin", "modules.order", "modules.builtin.modinfo"]) {
    const from = path.join(tree, folder, list);
    if (existsSync(from)) copyFileSync(from, path.join(work, folder, list));
  }
  execFileSync(findProgram("depmod") ?? "depmod", ["-b", work, version]);
  writeFileSync(path.join(work, "modules.wanted"), `${names.join("\n")}\n`);
}

/** A module and what it needs. */
function filesOfModule({ tree, version }: Kernel, name: string): string[] {
  try {
    const said = execFileSync(
      findProgram("modprobe") ?? "modprobe",
      ["-d", tree, "-S", version, "--show-depends", name],
      { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] },
    );
    return [...said.matchAll(/^insmod (\S+)/gm)].flatMap(([, file]) => file ?? []);
  } catch {
    return []; // built in, or of another architecture
  }
}
