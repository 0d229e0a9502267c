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

await import("../dist/peer/main.js");
