/**
 * What `memferry agent` takes; apart from it, so that no other command loads what it needs.
 *
 * @module
 */
import type { CommandSpec } from "./command-line.ts";

export const agentSpec: CommandSpec = {
  name: "agent",
  usage: "[--relay URL --enroll CODE] [options]",
  summary: "Keeps this host connected to a relay, whose REST API can order it to move regions.",
  positionalsMax: 0,
  options: {
    relay: { value: "URL", help: "the relay, https://HOST:PORT, when the host is enrolled" },
    enroll: {
      value: "CODE",
      help: "the one-use code (or MEMFERRY_ENROLL); - reads standard input",
    },
    "enroll-file": { value: "PATH", help: "read the code there" },
    config: {
      value: "PATH",
      help: "what this host allows (default: agent.json beside the user's configuration)",
    },
    "check-config": { help: "say what is wrong with the configuration, and end" },
    "state-dir": { value: "DIR", help: "where keys and orders are kept" },
  },
  examples: [
    ["memferry agent --relay https://relay.example:8443 --enroll-file code", "the first time"],
    ["memferry agent --config /etc/memferry/agent.json", "from then on"],
  ],
  notes: [
    "Paths, commands and sizes come from --config alone: the relay can only pick names from it.",
    "Peers that were started go on when the agent ends, and the next agent finds them.",
    "Exit status: 0 ended by a signal; 1 the relay will not have this host; 2 usage.",
  ],
};
