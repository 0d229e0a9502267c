/**
 * The emulated network does what it is told: what other tests and benchmarks say of it rests on this.
 *
 * Only ratios, as the machine is shared: never faster than the network allows, and not much slower.
 */
import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { requireTool, requireWan, skipUnless } from "../support/requires.ts";
import { datagrams, transfer } from "../support/wan/flow.ts";
import { Lab } from "../support/wan/lab.ts";
import { NAT_KINDS } from "../support/wan/nat.ts";

const MIB = 1024 * 1024;
const needs = [requireWan(), requireTool("ping")];

/** Prints the port that a datagram to each address comes from, as its receiver sees it. */
const ASK = `
const socket = require("node:dgram").createSocket(process.argv[1]);
const seen = [];
socket.on("message", (message) => {
  seen.push(String(message));
  if (seen.length < process.argv.length - 2) return;
  console.log(JSON.stringify(seen));
  process.exit();
});
for (const host of process.argv.slice(2)) socket.send("?", 4000, host);
setTimeout(() => { console.log("[]"); process.exit(); }, 1500);`;
/** Answers with the sender's port. */
const TELL = `
const socket = require("node:dgram").createSocket("udp6");
socket.on("message", (_, from) => socket.send(String(from.port), from.port, from.address));
socket.bind(4000, () => console.log("ready"));
setTimeout(() => process.exit(), 30000);`;
/** Speaks from port 4100 to port 4100 and listens meanwhile. */
const PUNCH = `
const [family, host] = process.argv.slice(1);
const socket = require("node:dgram").createSocket({ type: family, ipv6Only: family === "udp6" });
let heard = "nothing";
socket.on("message", (_, from) => {
  if (from.address === host && from.port === 4100) heard = "heard";
  else if (heard === "nothing") heard = "another port";
});
socket.bind(4100, () => setInterval(() => socket.send("!", 4100, host), 100));
setTimeout(() => { console.log(heard); process.exit(); }, 3000);`;

describe("Lab", () => {
  // Assigned before any test runs that is not skipped.
  let lab: Lab;
  beforeEach((ctx) => skipUnless(ctx, ...needs));
  beforeAll(async () => {
    if (needs.some(({ available }) => !available)) return;
    lab = await Lab.create({
      nodes: {
        one: {},
        two: {},
        ...Object.fromEntries(NAT_KINDS.map((nat) => [`at-${nat}`, { nat }])),
      },
    });
  });
  afterAll(async () => {
    if (needs.every(({ available }) => available)) await lab[Symbol.asyncDispose]();
  });

  test("a round trip takes the delays of both nodes twice, by IPv4 and IPv6", async () => {
    await lab.set("one", { delayMs: 12 });
    await lab.set("at-cgnat", { delayMs: 8 });
    for (const host of Object.values(lab.address("one"))) {
      const { stdout } = await lab.exec("at-cgnat", ["ping", "-c6", "-i0.1", host]);
      const leastMs = Number(/= ([\d.]+)\//.exec(stdout)?.[1]);
      expect(leastMs / 40).toBeGreaterThan(0.99);
      expect(leastMs / 40).toBeLessThan(1.25);
    }
    await lab.set("one", { delayMs: 0 });
    await lab.set("at-cgnat", { delayMs: 0 });
  });

  test("TCP gets the rate of the slower link and no more", async () => {
    await lab.set("one", { delayMs: 5, downMbit: 80 });
    await lab.set("at-easy", { delayMs: 5, upMbit: 160 });
    for (const host of Object.values(lab.address("one"))) {
      const way = { from: "at-easy", to: "one", host, port: 5001, bytes: 12 * MIB };
      const { sender } = await transfer(lab, way);
      const mbit = (sender.bytes * 8e-6) / sender.seconds;
      expect(mbit / 80).toBeLessThan(1.01);
      expect(mbit / 80).toBeGreaterThan(0.5);
    }
    await lab.set("one", { delayMs: 0, downMbit: 0 });
    await lab.set("at-easy", { delayMs: 0, upMbit: 0 });
  });

  test("single segments of super-packets are lost and overtaken, and nothing is damaged", async () => {
    await lab.set("at-easy", { lossRatio: 0.05, reorderRatio: 0.02, delayMs: 2 });
    for (const host of Object.values(lab.address("two"))) {
      const way = { from: "at-easy", to: "two", host, port: 5002 };
      const got = await datagrams(lab, { ...way, bursts: 300, bytes: 1200 });
      expect(got.damaged).toBe(0);
      expect((got.sent - got.datagrams) / got.sent / 0.05).toBeGreaterThan(0.8);
      expect((got.sent - got.datagrams) / got.sent / 0.05).toBeLessThan(1.25);
      expect(got.overtaken).toBeGreaterThan(0);
      // The digest of what arrives must be that of what was sent.
      await transfer(lab, { ...way, bytes: 4 * MIB });
    }
    await lab.set("at-easy", { lossRatio: 0, reorderRatio: 0, delayMs: 0 });
  });

  test("a full queue drops at its tail", async () => {
    await lab.set("one", { upMbit: 10, bufferBytes: 32 * 1024 });
    const before = await lab.statistics("one");
    const way = { from: "one", to: "two", host: lab.address("two").v4, port: 5003 };
    const got = await datagrams(lab, { ...way, bursts: 20, bytes: 1200 });
    const after = await lab.statistics("one");
    expect(after.upFull - before.upFull).toBe(got.sent - got.datagrams);
    expect(got.damaged + got.overtaken).toBe(0);
    expect(got.datagrams * 1200).toBeGreaterThan(32 * 1024);
    expect(got.datagrams).toBeLessThan(got.sent);
    await lab.set("one", { upMbit: 0, bufferBytes: 0 });
  });

  test("each kind of NAT gives the ports that its name says", async () => {
    const answering = ["one", "two"].map(async (node) =>
      lab.exec(node, ["timeout", "30", process.execPath, "-e", TELL]),
    );
    for (const each of answering) each.catch(() => undefined);
    const ports = async (kind: string, family: "v4" | "v6"): Promise<string[]> => {
      const hosts = ["one", "two"].map((node) => lab.address(node)[family]);
      const argv = [process.execPath, "-e", ASK, family === "v4" ? "udp4" : "udp6", ...hosts];
      const { stdout } = await lab.exec(`at-${kind}`, argv);
      // ASK prints texts.
      return JSON.parse(stdout) as string[];
    };
    await expect.poll(async () => ports("none", "v4"), { timeout: 20_000 }).toHaveLength(2);
    for (const family of ["v4", "v6"] as const) {
      for (const kind of ["none", "easy", "cgnat"]) {
        const [first, second] = await ports(kind, family);
        expect(first, kind).toBeDefined();
        expect(first, kind).toBe(second);
      }
      const [first, second] = await ports("symmetric", family);
      expect(first).toBeDefined();
      expect(first).not.toBe(second);
      expect(await ports("udp-blocked", family)).toEqual([]);
      await lab.blockUdp("at-easy", true);
      expect(await ports("easy", family)).toEqual([]);
      await lab.blockUdp("at-easy", false);
      expect(await ports("easy", family)).toHaveLength(2);
    }
  });

  // Also when the first packets come before the other side has opened its router: they may not take the port.
  test("two easy routers let both through at once, a symmetric one does not", async () => {
    const punch = async (from: string, to: string, family: "v4" | "v6"): Promise<string> => {
      const argv = [process.execPath, "-e", PUNCH, family === "v4" ? "udp4" : "udp6"];
      const { stdout } = await lab.exec(from, [...argv, lab.address(to)[family]]);
      return stdout.trim();
    };
    const both = async (a: string, b: string, family: "v4" | "v6"): Promise<string[]> =>
      Promise.all([punch(`at-${a}`, `at-${b}`, family), punch(`at-${b}`, `at-${a}`, family)]);
    expect(
      await Promise.all([
        both("easy", "cgnat", "v4"),
        both("easy", "cgnat", "v6"),
        both("symmetric", "none", "v4"),
      ]),
    ).toEqual([
      ["heard", "heard"],
      ["heard", "heard"],
      // Not from the port that was spoken to; whoever answers what comes would be heard.
      ["nothing", "another port"],
    ]);
    expect(await both("symmetric", "easy", "v6")).toEqual(["nothing", "nothing"]);
  });

  test("a cut node is silent until it is restored; another address is the only one", async () => {
    const before = lab.address("one").v4;
    const ping = async (host: string): Promise<boolean> =>
      lab.exec("at-easy", ["ping", "-c1", "-W1", host]).then(
        () => true,
        () => false,
      );
    await lab.cut("one");
    expect(await ping(before)).toBe(false);
    await lab.restore("one");
    expect(await ping(before)).toBe(true);
    const { v4, v6 } = await lab.changeAddress("one");
    expect([await ping(v4), await ping(v6), await ping(before)]).toEqual([true, true, false]);
    await lab.changeAddress("at-easy");
    await lab.reboot("at-easy", 10);
    expect(await ping(v4)).toBe(true);
  });

  test("namespaces of a killed process are removed by the next lab", async () => {
    const stale = "mfwan-999999999-1-0-left";
    execFileSync("ip", ["netns", "add", stale]);
    await using another = await Lab.create({ nodes: { alone: {} } });
    expect(another.address("alone").v4).toBe("203.0.113.1");
    expect(readdirSync("/run/netns")).not.toContain(stale);
  });
});
