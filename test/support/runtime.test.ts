import { expect, inject, test } from "vitest";

import { requireRoot, requireTool } from "./requires.ts";

// Vitest starts workers of its own; were they Node, the Deno project would prove nothing.
test("each project runs on the runtime it names", () => {
  expect("Deno" in globalThis).toBe(inject("runtime") === "deno");
});

test("requireTool() has a path, or a reason that ends in a command", () => {
  expect(requireTool("ip")).toSatisfy(({ available, path, skipReason }) =>
    available ? path.startsWith("/") && skipReason === "" : /install .*iproute/.test(skipReason),
  );
  expect(requireRoot().skipReason === "").toBe(process.getuid?.() === 0);
});
