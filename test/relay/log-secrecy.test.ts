/**
 * Everything that a relay logs at debug while keys, tickets and webhooks' secrets go through it: none of them is in it.
 */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test, vi } from "vitest";

import { ApiClient } from "../../peer/net/api-client.ts";
import { dialLink } from "../../peer/net/dial.ts";
import { PeerIdentity } from "../../peer/net/peer-identity.ts";
import { RelayControl } from "../../peer/net/relay-control.ts";
import { relayOf } from "../../peer/net/relay-pins.ts";
import { readConfig } from "../../relay/config.ts";
import { fromHex } from "../../relay/db/hex.ts";
import { createLog } from "../../relay/log.ts";
import { toBase64Url, toHex } from "../../relay/protocol/bytes.ts";
import { encodeTicket, type Ticket } from "../../relay/protocol/ticket.ts";
import { startRelay } from "../../relay/relay.ts";

test("no line of a relay's log holds a key, a ticket, a token or a secret, whoever puts it where", async () => {
  const directory = await mkdtemp(join(tmpdir(), "memferry-secrecy-"));
  const outcome = readConfig(
    [
      ["--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0", "--no-user-config"],
      ["--data", join(directory, "data"), "--discovery-ports", "none", "--log-level", "debug"],
    ].flat(),
    {},
  );
  if (outcome.kind !== "config") throw new Error(JSON.stringify(outcome));
  const lines: string[] = [];
  const log = createLog({ level: "debug", format: "json", write: (line) => lines.push(line) });
  const relay = await startRelay(outcome.config, log);
  const secrets = new Map<string, string>();
  try {
    const key = (await readFile(relay.key.file, "utf8")).trim();
    secrets.set("API key", key.slice("mfk_".length + 13));
    const client = new ApiClient({
      url: relay.url,
      certificateHashes: relay.certificateHashes.map(fromHex),
      relayIdentity: fromHex(relay.identity),
      key,
    });
    const made = await client.createSession({ name: "s", ticketTtlMs: 60_000 });
    const common = { ...made.relay, sessionId: made.id, secret: new Uint8Array(32).fill(9) };
    const seeder: Ticket = { ...common, role: "seeder", token: made.seederToken };
    const leecher: Ticket = { ...common, role: "leecher", token: made.leecherToken };
    for (const [name, token] of [
      ["seeder", made.seederToken],
      ["leecher", made.leecherToken],
    ] as const) {
      secrets.set(`${name}'s token`, toBase64Url(token));
      secrets.set(`${name}'s token in hexadecimal`, toHex(token));
    }
    secrets.set("ticket", encodeTicket(leecher).slice(12));
    const join_ = (ticket: Ticket) =>
      RelayControl.join({
        ticket,
        identity: PeerIdentity.generate(),
        dial: (signal, greeting) => dialLink("websocket", { ...relayOf(ticket), signal, greeting }),
      });
    const first = await join_(seeder);
    // Used again by another peer, and one that was never given out.
    await expect(join_(seeder)).rejects.toMatchObject({ code: "TICKET_USED" });
    const unknown = new Uint8Array(32).fill(0xee);
    secrets.set("unknown token", toBase64Url(unknown));
    await expect(join_({ ...leecher, token: unknown })).rejects.toMatchObject({
      code: "TICKET_UNKNOWN",
    });
    await first.close();

    const ask = (path: string, init: RequestInit = {}, authorization = `Bearer ${key}`) =>
      fetch(`${relay.dashboardUrl}${path}`, {
        ...init,
        headers: { authorization, "content-type": "application/json" },
      });
    const hook = { url: "https://hooks.invalid/?token=abcdefghijklmnop", eventTypes: ["*"] };
    const webhook = await ask("/v1/webhooks", { method: "POST", body: JSON.stringify(hook) });
    const { webhook: shown, secret } = (await webhook.json()) as {
      webhook: { id: string };
      secret: string;
    };
    secrets.set("webhook's secret", secret.slice("whsec_".length));
    await ask(`/v1/webhooks/${shown.id}:test`, { method: "POST" });
    // It has been tried, so what a delivery logs is there.
    await vi.waitFor(() => expect(lines.join("\n")).toContain("webhook delivery"), 15_000);

    // Where they do not belong, and are put all the same.
    const ticket = encodeTicket(leecher);
    for (const path of [
      `/v1/sessions?key=${key}`,
      `/v1/sessions/${key}`,
      `/v1/sessions/${encodeURIComponent(ticket)}`,
      `/${toBase64Url(made.leecherToken)}`,
      `/v1/webhooks/${secret}`,
    ]) {
      await ask(path);
    }
    await ask("/v1/sessions", { method: "POST", body: JSON.stringify({ name: key }) });
    await ask("/v1/sessions", { method: "POST", body: `{"name": ${ticket}` });
    await ask("/v1/sessions", {}, `Bearer ${key}x`);
    await ask("/v1/sessions", {}, `Basic ${ticket}`);
  } finally {
    await relay.close();
    await rm(directory, { recursive: true, force: true });
  }
  const all = lines.join("\n");
  expect(lines.length).toBeGreaterThan(15);
  for (const [name, secret] of secrets) {
    expect([name, all.includes(secret)]).toEqual([name, false]);
  }
  // One line of each request, by the id that its answer had.
  const requests = lines.filter((line) => line.includes('"message":"request"'));
  for (const line of requests) expect(line).toMatch(/"requestId":"[0-9a-f-]{36}"/);
  expect(requests.length).toBeGreaterThan(8);
}, 120_000);
