/**
 * Hosts behind NATs on a wide area network, on one machine: namespaces, nftables, and `hub.c` between them.
 *
 * ```ts
 * await using lab = await Lab.create({
 *   nodes: { relay: {}, a: { nat: "easy" }, b: { nat: "cgnat", link: { upMbit: 20 } } },
 *   link: { delayMs: 10, upMbit: 100, downMbit: 100 },
 * });
 * const { v4 } = lab.address("relay");
 * await lab.exec("a", ["ping", "-c1", v4]);
 * ```
 *
 * Every node has IPv4 and IPv6, both with the same NAT: for IPv6 that is NAT66, addresses of a private range that the
 * router replaces. A packet from one node to another takes the delays of both, so a round trip takes each twice.
 *
 * @module
 */
import { type ExecFileOptions, execFile } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

import { Hub, type LinkParameters, type NodeStatistics } from "./hub.ts";
import { batch, entering, namespaceFile, Namespaces } from "./namespaces.ts";
import { layersOf, type NatKind, routerRules } from "./nat.ts";

const run = promisify(execFile);
const OUTPUT_BYTES_MAX = 64 << 20;
const MTU = 1500;
const REBOOT_MS = 1_500;

export interface NodeOptions {
  /** Default `none`. */
  readonly nat?: NatKind;
  readonly link?: LinkParameters;
  readonly mtu?: number;
}

export interface LabOptions {
  /** At most 160; names are short words. */
  readonly nodes: Readonly<Record<string, NodeOptions>>;
  /** For every node, under what the node has itself. */
  readonly link?: LinkParameters;
  /** Which of IP's versions there are; default both. */
  readonly families?: readonly Family[];
}

export type Family = "v4" | "v6";

export interface Addresses {
  readonly v4: string;
  readonly v6: string;
}

interface Node {
  readonly name: string;
  readonly number: number;
  readonly nat: NatKind;
  readonly mtu: number;
  /** The host's. */
  readonly namespace: string;
  /** Of its routers, the outermost first. */
  readonly routers: readonly string[];
  /** What the others see. */
  address: Addresses;
}

export class Lab implements AsyncDisposable {
  readonly #namespaces: Namespaces;
  readonly #hub: Hub;
  readonly #nodes = new Map<string, Node>();
  readonly #families: readonly Family[];
  #addressCount = 0;

  private constructor(namespaces: Namespaces, families: readonly Family[]) {
    this.#namespaces = namespaces;
    this.#families = families;
    this.#hub = new Hub();
  }

  /** Needs what `requireWan` asks for. @throws what the system refuses; nothing is left then */
  static async create({ nodes, link = {}, families = ["v4", "v6"] }: LabOptions): Promise<Lab> {
    const lab = new Lab(await Namespaces.open(), families);
    try {
      for (const [name, options] of Object.entries(nodes)) {
        await lab.#join(name, { ...options, link: { ...link, ...options.link } });
      }
      return lab;
    } catch (error) {
      await lab[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** What the others see: the node's own, or its outermost router's. */
  address(node: string): Addresses {
    return this.#node(node).address;
  }

  /** What a command must begin with to run on the node; `nsenter` becomes the command, so its process is the same. */
  inside(node: string): string[] {
    return ["nsenter", ...entering(this.#node(node).namespace)];
  }

  /** Runs a command on the node to its end. @throws if it fails, with what it said */
  async exec(
    node: string,
    argv: readonly string[],
    options: ExecFileOptions = {},
  ): Promise<{ stdout: string; stderr: string }> {
    const args = [...entering(this.#node(node).namespace), ...argv];
    const { stdout, stderr } = await run("nsenter", args, {
      maxBuffer: OUTPUT_BYTES_MAX,
      ...options,
      encoding: "utf8",
    });
    return { stdout, stderr };
  }

  async set(node: string, parameters: LinkParameters): Promise<void> {
    await this.#hub.set(this.#node(node).name, parameters);
  }

  /** Nothing comes or goes any more, and nobody is told. */
  async cut(node: string): Promise<void> {
    await this.#hub.tell("cut", this.#node(node).name);
  }

  async restore(node: string): Promise<void> {
    await this.#hub.tell("restore", this.#node(node).name);
  }

  /** UDP from and to the node is dropped from now on, or no more. */
  async blockUdp(node: string, blocked: boolean): Promise<void> {
    const { namespace, routers } = this.#node(node);
    const drop = (hook: string, name: string): string =>
      `chain ${hook} { type filter hook ${hook} priority raw; ${name} "wan" meta l4proto udp drop; };`;
    const rules = blocked
      ? `table inet blocked { ${drop("prerouting", "iifname")} ${drop("postrouting", "oifname")} }`
      : "delete table inet blocked";
    await rule(routers[0] ?? namespace, rules);
  }

  /** The node's routers are away for a while and have then forgotten every connection. Without one: away for a while. */
  async reboot(node: string, downMs = REBOOT_MS): Promise<void> {
    const { routers } = this.#node(node);
    await this.cut(node);
    await sleep(downMs);
    for (const router of routers) {
      await run("nsenter", [...entering(router), "conntrack", "-F"]);
    }
    await this.restore(node);
  }

  /** The node, or its outermost router, gets other addresses and loses those it had. */
  async changeAddress(node: string): Promise<Addresses> {
    const entry = this.#node(node);
    const outer = entry.routers[0] ?? entry.namespace;
    const before = entry.address;
    entry.address = await this.#allot(entry.name);
    await this.#configure(outer, addressCommands("add", entry.address));
    await this.#configure(outer, addressCommands("del", before));
    for (const each of Object.values(before)) await this.#hub.tell("forget", entry.name, each);
    return entry.address;
  }

  async statistics(node: string): Promise<NodeStatistics> {
    return this.#hub.statistics(this.#node(node).name);
  }

  /** From now on `firstAtNs` is the next packet's. */
  async mark(node: string): Promise<void> {
    await this.#hub.tell("mark", this.#node(node).name);
  }

  /** Of the process that carries everything: its CPU time is not the programs'. */
  get hubPid(): number {
    return this.#hub.pid;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#hub.close();
    await this.#namespaces.close();
  }

  #node(name: string): Node {
    const node = this.#nodes.get(name);
    if (node === undefined) throw new Error(`no node ${name}: ${[...this.#nodes.keys()].join()}`);
    return node;
  }

  async #join(name: string, options: NodeOptions): Promise<void> {
    const { nat = "none", mtu = MTU, link = {} } = options;
    const layers = layersOf(nat);
    const routers: string[] = [];
    for (const i of layers.keys()) routers.push(await this.#namespaces.add(`${name}-r${i}`));
    const namespace = await this.#namespaces.add(name);
    const outer = routers[0] ?? namespace;
    await this.#hub.tell("node", name, namespaceFile(outer), mtu);
    await this.#hub.set(name, link);
    const number = this.#nodes.size + 1;
    const address = await this.#allot(name);
    await this.#configure(outer, [
      ...addressCommands("add", address),
      "link set wan up",
      "route add default dev wan",
      "route add ::/0 dev wan",
    ]);
    for (const [i, layer] of layers.entries()) {
      const router = routers[i] ?? "";
      const below = routers[i + 1] ?? namespace;
      // The range that carriers have for this is used where there is another router below.
      const v4 = i + 1 < layers.length ? `100.64.${number}` : `10.${number}.${i}`;
      const v6 = `fd00:${number}:${i}:`;
      await this.#configure(router, [
        `link add lan mtu ${mtu} type veth peer name wan mtu ${mtu} netns ${below}`,
        `addr add ${v4}.1/24 dev lan`,
        `addr add ${v6}:1/64 dev lan nodad`,
        "link set lan up",
      ]);
      await this.#configure(below, [
        `addr add ${v4}.2/24 dev wan`,
        `addr add ${v6}:2/64 dev wan nodad`,
        "link set wan up",
        `route add default via ${v4}.1`,
        `route add ::/0 via ${v6}:1`,
      ]);
      await this.#route(router, routerRules(layer));
    }
    this.#nodes.set(name, { name, number, nat, mtu, namespace, routers, address });
  }

  /** Commands of `ip`; those of a version that is not wanted are left out. */
  async #configure(namespace: string, commands: readonly string[]): Promise<void> {
    const family = (command: string): Family | undefined =>
      command.includes("::") ? "v6" : command.startsWith("link") ? undefined : "v4";
    const wanted = commands.filter((command) => {
      const needs = family(command);
      return needs === undefined || this.#families.includes(needs);
    });
    if (wanted.length > 0) await batch(namespace, wanted);
  }

  /** Addresses of documentation ranges, which no filter of private ones takes for one. */
  async #allot(name: string): Promise<Addresses> {
    const number = ++this.#addressCount;
    if (number > 254) throw new Error("a lab has 254 addresses; make another lab");
    const address = { v4: `203.0.113.${number}`, v6: `2001:db8:77::${number.toString(16)}` };
    for (const each of Object.values(address)) await this.#hub.tell("address", name, each);
    return address;
  }

  async #route(namespace: string, rules: string): Promise<void> {
    const args = entering(namespace);
    const forward = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
    await run("nsenter", [...args, "sysctl", "-qw", ...forward]);
    await rule(namespace, rules);
  }
}

async function rule(namespace: string, rules: string): Promise<void> {
  const nft = run("nsenter", [...entering(namespace), "nft", "-f", "-"]);
  nft.child.stdin?.end(rules);
  await nft;
}

/** With no net around it: all others are beyond the device. */
function addressCommands(verb: "add" | "del", { v4, v6 }: Addresses): string[] {
  const more = verb === "add" ? " nodad" : "";
  return [`addr ${verb} ${v4}/32 dev wan`, `addr ${verb} ${v6}/128 dev wan${more}`];
}
