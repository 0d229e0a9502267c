import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

import { makeSecret, signatureOf } from "../../../relay/webhooks/signature.ts";

/** What docs/rest.md tells receivers to do. */
async function documented(): Promise<
  (header: string, body: string, secret: string, nowS?: number) => boolean
> {
  const page = readFileSync(new URL("../../../docs/rest.md", import.meta.url), "utf8");
  const [, code = ""] = /```js\n(.*?isFromRelay.*?)```/s.exec(page) ?? [];
  const module: unknown = await import(`data:text/javascript,${encodeURIComponent(code)}`);
  if (typeof module !== "object" || module === null || !("isFromRelay" in module)) {
    throw new Error("docs/rest.md has no isFromRelay()");
  }
  const { isFromRelay } = module;
  if (typeof isFromRelay !== "function") throw new Error("isFromRelay is no function");
  return (...given) => Boolean(isFromRelay(...given));
}

test("what docs/rest.md tells receivers to do takes the relay's signatures, and nothing else", async () => {
  const isFromRelay = await documented();
  const [secret, before] = [makeSecret(), makeSecret()];
  const body = '{"id":"1"}';
  const header = signatureOf(body, 1_000, [secret, before]);
  expect(isFromRelay(header, body, secret, 1_010)).toBe(true);
  expect(isFromRelay(header, body, before, 1_010)).toBe(true);
  expect(isFromRelay(header, body, makeSecret(), 1_010)).toBe(false);
  expect(isFromRelay(header, `${body} `, secret, 1_010)).toBe(false);
  expect(isFromRelay(header.replace("t=1000", "t=1001"), body, secret, 1_010)).toBe(false);
  expect(isFromRelay(header.replaceAll("v1=", "v0="), body, secret, 1_010)).toBe(false);
  // A delivery that somebody kept and sends again later.
  expect(isFromRelay(header, body, secret, 1_301)).toBe(false);
  for (const nothing of ["", "t=", "t=1000", "t=1000,v1=", "v1=00,t=1000"]) {
    expect([nothing, isFromRelay(nothing, body, secret, 1_010)]).toEqual([nothing, false]);
  }
});
