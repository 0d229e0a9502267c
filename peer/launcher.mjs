#!/usr/bin/env node
// The installed command. It looks at Node's version before anything is loaded, because a Node that is
// too old fails on the first import with a message about syntax. So nothing here is newer than Node 14.
const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  console.error(
    "memferry needs Node 22.18 or newer, and this is " +
      process.versions.node +
      " (" +
      process.execPath +
      ").",
  );
  process.exit(1);
}

const module = await import("node:module");
const os = await import("node:os");
// Compiled once for all runs. Not in the folder for temporary files, which is Node's default: there anybody could put
// code in the name of this user. Where it cannot be written, nothing is kept.
if (module.enableCompileCache && !process.env.NODE_COMPILE_CACHE) {
  const cache = process.env.XDG_CACHE_HOME || os.homedir() + "/.cache";
  module.enableCompileCache(cache + "/memferry/code");
}

await import("../dist/peer/main.js");
