/**
 * @module
 */
import { discoveryTarget } from "./datagram-targets.ts";
import { probeTarget, signalTarget } from "./path-targets.ts";
import { framingTarget, handshakeTarget, journalTarget, sealedTarget } from "./stream-targets.ts";
import { certificatesTarget, frameTarget, messageTarget, ticketTarget } from "./targets.ts";

export const TARGETS = [
  frameTarget,
  messageTarget,
  framingTarget,
  ticketTarget,
  certificatesTarget,
  journalTarget,
  sealedTarget,
  handshakeTarget,
  discoveryTarget,
  signalTarget,
  probeTarget,
] as const;
