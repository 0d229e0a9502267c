/**
 * What `memferry mount` takes.
 *
 * @module
 */
import { EXPORT_KINDS } from "../export/spec.ts";
import { STORE_KINDS } from "../store/spec.ts";
import type { CommandSpec } from "./command-line.ts";

export const mountSpec: CommandSpec = {
  name: "mount",
  usage: "STORE --export KIND:PLACE [options]",
  summary: "Shows a region that stays in a store, as if it were here.",
  positionalsMax: 1,
  options: {
    export: {
      value: "KIND:PLACE",
      help: `where programs find it: ${EXPORT_KINDS.replace(" or file:PATH", "")}`,
    },
    "tls-cert": { value: "PATH", help: "NBD clients need TLS; this server's certificate (PEM)" },
    "tls-key": { value: "PATH", help: "the certificate's key" },
    "tls-client-ca": { value: "PATH", help: "NBD clients need a certificate that this one signed" },
    "tls-psk": {
      value: "PATH",
      help: "NBD clients need TLS with a key of this file, one IDENTITY:HEX a line",
    },
    name: { value: "NAME", help: "what the region is called there (default region)" },
    size: {
      value: "SIZE",
      help: "make the store if it is not there; else it must be of this size",
    },
    mode: {
      value: "MODE",
      help: "managed: keep what is read, pull the rest, push what is written; direct: every access goes to the store (default managed)",
    },
    cache: {
      value: "file:PATH",
      help: "keep what was pulled there, for the next mount too (default: in memory)",
    },
    "cache-size": {
      value: "SIZE",
      help: "keep this much of what was read, and do not pull the rest",
    },
    pull: {
      value: "COUNT",
      help: "reads in the background at once: auto, or a number; 0: none (default auto)",
    },
    priority: {
      value: "RANGE",
      help: "pull this first: 0-4MiB, 1GiB-, first:4MiB or last:1MiB; may be repeated",
      repeatable: true,
    },
    record: {
      value: "PATH",
      help: "write down which parts programs ask for, in order; nothing is pulled ahead meanwhile",
    },
    replay: { value: "PATH", help: "pull what was recorded first, in that order" },
    "push-interval": {
      value: "TIME",
      help: "what is written is at the store after this (default 5s)",
    },
    "write-through": { help: "a write is at the store before it is answered" },
    "read-only": { help: "programs may not write" },
    "chunk-size": { value: "SIZE", help: "a power of two from 4KiB to 4MiB (default 64KiB)" },
    "fail-after": {
      value: "TIME",
      help: "programs get an error if the store is away for longer; 0s: they wait (default 5m)",
    },
  },
  examples: [
    [
      "memferry mount directory:/mnt/nas/vm --size 20GiB --export fuse:/mnt/vm",
      "a new region, on a shared folder",
    ],
    [
      "memferry mount file:/mnt/nas/disk.img --export nbd:unix:/run/disk.sock --cache file:/var/cache/disk",
      "a disk for QEMU, with a cache that outlives this command",
    ],
    [
      "memferry mount file:/mnt/nas/movie.mp4 --export fuse:/mnt/movie --read-only --priority last:4MiB",
      "the index at the end first",
    ],
  ],
  notes: [
    "--record PATH at one start and --replay PATH at the next pull a program's working set ahead of the rest.",
    `STORE is one of ${STORE_KINDS}.`,
    "fsync of a program returns when all that was written before it is durable at the store.",
    "Ctrl-C pushes what is left, takes the export away and ends; a second one ends at once, and a cache file keeps what was not pushed.",
    "Exit status: 0 done; 1 it could not begin, or not everything is at the store; 2 usage.",
  ],
};
