#!/usr/bin/env node
// Suspends and resumes a QEMU guest for memferry: what `--on-suspend`, `--on-resume`, `--on-rollback` and
// `--on-release` run. No packages; Node 18 or newer. `docs/examples/qemu.md` has the whole story.
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const HELP = `Usage: hook.mjs suspend|resume|rollback|release --qmp SOCKET [--state FILE]

  suspend   stops the guest, and writes all of its state but the memory into FILE
  resume    gives FILE to a QEMU that waits with -incoming defer, and starts the guest
  rollback  starts the guest again where it was stopped
  release   ends QEMU

  --qmp SOCKET   QEMU's control socket: -qmp unix:SOCKET,server=on,wait=off
  --state FILE   default: the region named "state", of MEMFERRY_PATHS
`;

/** memferry kills a hook after 60 s; so that it says why, this ends before. */
const PATIENCE_MS = 50_000;
const POLL_MS = 2;
/** Of one answer; QEMU's longest one here has some hundred bytes. */
const LINE_CHARS_MAX = 1 << 20;

/** QEMU's machine protocol: one JSON object a line, one answer a command, events in between. */
class Qmp {
  #socket;
  #text = "";
  /** @type {Error | undefined} */
  #failure;
  /** @type {{ resolve: (value: any) => void, reject: (error: Error) => void }[]} */
  #waiting = [];

  /** @param {import("node:net").Socket} socket */
  constructor(socket) {
    this.#socket = socket.setEncoding("utf8");
    socket.on("data", (text) => this.#read(String(text)));
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("QEMU closed the control socket")));
  }

  /** @param {string} path */
  static async open(path) {
    const socket = connect(path);
    await new Promise((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", (error) =>
        reject(new Error(`no QEMU answers at ${path} (${error.message})`)),
      );
    });
    const qmp = new Qmp(socket);
    await qmp.run("qmp_capabilities");
    return qmp;
  }

  /** @param {string} command @param {object} [args] @returns {Promise<any>} */
  run(command, args = {}) {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) return reject(this.#failure);
      this.#waiting.push({
        resolve,
        reject: (error) => reject(new Error(`${command}: ${error.message}`)),
      });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    });
  }

  close() {
    this.#socket.destroy();
  }

  /** @param {string} text */
  #read(text) {
    this.#text += text;
    if (this.#text.length > LINE_CHARS_MAX) return this.#fail(new Error("an answer has no end"));
    const lines = this.#text.split("\n");
    this.#text = lines.pop() ?? "";
    for (const line of lines) {
      if (line.trim() === "") continue;
      let answer;
      try {
        answer = JSON.parse(line);
      } catch {
        return this.#fail(new Error("what answers is not QEMU"));
      }
      if ("return" in answer) this.#waiting.shift()?.resolve(answer.return);
      else if ("error" in answer) this.#waiting.shift()?.reject(new Error(answer.error.desc));
    }
  }

  /** @param {Error} error */
  #fail(error) {
    this.#failure ??= error;
    this.#socket.destroy();
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }
}

/** Memory that QEMU shares with a file stays where it is: only devices and processors are written. @param {Qmp} qmp */
async function leaveMemory(qmp) {
  await qmp.run("migrate-set-capabilities", {
    capabilities: [{ capability: "x-ignore-shared", state: true }],
  });
}

/** @param {Qmp} qmp */
async function migrated(qmp) {
  for (;;) {
    const { status, "error-desc": why } = await qmp.run("query-migrate");
    if (status === "completed") return;
    if (status === "failed" || status === "cancelled") {
      throw new Error(`QEMU's migration ${status}${why === undefined ? "" : `: ${why}`}`);
    }
    await sleep(POLL_MS);
  }
}

/** @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** @type {Record<string, (qmp: Qmp, state: string) => Promise<void>>} */
const actions = {
  async suspend(qmp, state) {
    await qmp.run("stop");
    await leaveMemory(qmp);
    // Larger than the region is an error here, and not a guest that does not start there.
    const uri = `exec:dd of=${quoted(state)} bs=64k conv=notrunc iflag=fullblock status=none`;
    await qmp.run("migrate", { uri });
    await migrated(qmp);
  },
  async resume(qmp, state) {
    await leaveMemory(qmp);
    await qmp.run("migrate-incoming", { uri: `exec:cat ${quoted(state)}` });
    await migrated(qmp);
    await qmp.run("cont");
  },
  async rollback(qmp) {
    await qmp.run("cont");
  },
  async release(qmp) {
    // It may be gone before it has answered.
    await qmp.run("quit").catch(() => undefined);
  },
};

/** @param {string[]} argv */
async function main([action = "", ...rest]) {
  /** @type {Record<string, string>} */
  const options = {};
  for (let i = 0; i < rest.length; i += 2) options[rest[i] ?? ""] = rest[i + 1] ?? "";
  const { "--qmp": socket, "--state": given, ...unknown } = options;
  const act = Object.hasOwn(actions, action) ? actions[action] : undefined;
  if (act === undefined || !socket || Object.keys(unknown).length > 0) {
    process.stderr.write(HELP);
    return 2;
  }
  const paths = (process.env["MEMFERRY_PATHS"] ?? "").split("\n");
  const state = given ?? paths.find((path) => path.endsWith("/state"));
  if (state === undefined && (action === "suspend" || action === "resume")) {
    throw new Error('no region is named "state": name one, or give --state FILE');
  }
  const late = setTimeout(() => {
    process.stderr.write(`QEMU was not done after ${PATIENCE_MS / 1000} s\n`);
    process.exit(1);
  }, PATIENCE_MS);
  const qmp = await Qmp.open(socket);
  try {
    await act(qmp, state ?? "");
  } finally {
    qmp.close();
    clearTimeout(late);
  }
  return 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
