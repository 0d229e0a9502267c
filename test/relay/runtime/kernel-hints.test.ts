import { expect, test } from "vitest";
import { kernelHints } from "../../../relay/runtime/kernel-hints.ts";

const host = (settings: Record<string, string>) => (setting: string) => settings[setting];

test("kernelHints() says what to type about CUBIC and small UDP buffers", () => {
  const read = host({
    "net.ipv4.tcp_congestion_control": "cubic",
    "net.core.rmem_default": "212992",
  });
  const cures = kernelHints({ webTransport: true }, read).map(({ cure }) => cure);
  expect(cures).toEqual([
    "sysctl -w net.ipv4.tcp_congestion_control=bbr",
    "sysctl -w net.core.rmem_default=4194304 net.core.wmem_default=4194304",
  ]);
  expect(kernelHints({ webTransport: false }, read)).toHaveLength(1);
});

test("kernelHints() is silent where all is well, or nothing can be read", () => {
  const read = host({
    "net.ipv4.tcp_congestion_control": "bbr",
    "net.core.rmem_default": "8388608",
  });
  expect(kernelHints({ webTransport: true }, read)).toEqual([]);
  expect(kernelHints({ webTransport: true }, () => undefined)).toEqual([]);
});
