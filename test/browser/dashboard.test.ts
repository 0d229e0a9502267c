/** The dashboard in a real browser, over a real relay with real migrations going on. */
import { beforeAll, describe, expect, test } from "vitest";

import { makeFile, sameContent } from "../e2e/files.ts";
import { Stage, text, type TestRelay } from "../e2e/harness.ts";
import type { Program } from "../e2e/program.ts";
import { requireTool, skipUnless } from "../support/requires.ts";
import { TestBrowser, type TestPage } from "./browser.ts";

const MIB = 1024 * 1024;
const chromium = requireTool("chromium");
const SCRIPT_TAG = `<script>document.title="stolen"</script><img src=x onerror=alert(1)>`;

let stage: Stage;
let relay: TestRelay;
let dashboard = "";
let browser: TestBrowser;
let migrations = 0;

test("there is a browser", (ctx) => skipUnless(ctx, chromium));

describe.runIf(chromium.available)("the dashboard", () => {
  beforeAll(async () => {
    stage = await Stage.open();
    relay = await stage.relay({ args: ["--dashboard", "127.0.0.1:0"] });
    dashboard = `${text(relay.ready, "dashboard")}/`;
    browser = await TestBrowser.open(chromium.path);
    return async () => {
      await browser[Symbol.asyncDispose]();
      await stage[Symbol.asyncDispose]();
    };
  });

  interface Migration {
    readonly seeder: Program;
    readonly leecher: Program;
    readonly from: string;
    readonly to: string;
    readonly sessionId: string;
  }

  /** One that waits for somebody to switch it over. */
  async function migrate(): Promise<Migration> {
    const number = ++migrations;
    const [from, to] = [stage.file(`source-${number}`), stage.file(`destination-${number}`)];
    await makeFile(from, 8 * MIB);
    const { seeder, ticket, sessionId } = await stage.seed(["--file", from]);
    const leecher = stage.leech(ticket, ["--file", to, "--finalize", "manual"]);
    await leecher.waitFor("phase", ({ phase }) => phase === "precopy");
    return { seeder, leecher, from, to, sessionId };
  }

  async function api(path: string, init: RequestInit = {}, key = relay.key): Promise<Response> {
    return await fetch(new URL(`v1/${path}`, dashboard), {
      ...init,
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    });
  }

  async function makeKey(body: object): Promise<string> {
    const response = await api("keys", { method: "POST", body: JSON.stringify(body) });
    expect(response.status).toBe(201);
    const made: { secret: string } = JSON.parse(await response.text());
    return made.secret;
  }

  async function signedIn(key = relay.key): Promise<TestPage> {
    const page = await browser.page();
    await page.signIn(dashboard, key);
    return page;
  }

  test("a wrong key is told, and its cookie is no script's", async () => {
    await using view = await browser.page();
    view.expect(/401/);
    const { page } = view;
    await page.goto(dashboard);
    await page.getByLabel("API key").fill("mfk_000000000000_wrong");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("unknown, expired or revoked").waitFor();
    await view.signIn(dashboard, relay.key);
    expect(await page.evaluate("document.cookie")).toBe("");
    const stored = await page.evaluate<string>(
      "JSON.stringify(Object.assign({}, localStorage, sessionStorage))",
    );
    expect(stored).not.toContain("mfk_");
    // The sign-in is the browser's: a reload needs no key.
    await page.reload();
    await page.getByRole("navigation", { name: "Views" }).waitFor();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("API key").waitFor();
    expect(view.problems).toEqual([]);
  });

  test("a session is watched, switched over, and reported on", async () => {
    const { seeder, leecher, from, to, sessionId } = await migrate();
    await using view = await signedIn();
    const { page } = view;
    await view.go(`sessions/${sessionId}`);
    await page.getByText("All of it is at the destination").waitFor();
    await page.locator(".view-head .runs-at-source").waitFor();

    await page.getByRole("button", { name: "Switch over" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText("no way back by cancelling").waitFor();
    await dialog.getByRole("button", { name: "Switch over" }).click();

    await page.locator(".view-head .runs-at-destination").waitFor();
    await page.getByText(/^Done: /).waitFor();
    await leecher.expectExit(0);
    await seeder.expectExit(0);
    expect(await sameContent(from, to)).toBe(true);

    await view.go(`reports?of=${sessionId}`);
    await page.getByRole("heading", { name: "Standstill" }).waitFor();
    expect(view.problems).toEqual([]);
  });

  test("a session is cancelled, and the workload stays at the source", async () => {
    const { seeder, leecher, sessionId } = await migrate();
    await using view = await signedIn();
    const { page } = view;
    await view.go(`sessions/${sessionId}`);
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
    await page.getByText("Cancelled: the workload runs at the source.").waitFor();
    await leecher.expectExit(1);
    await seeder.waitFor("phase", ({ phase }) => phase === "cancelled");
    seeder.kill("SIGINT");
    await seeder.waitForExit();
    expect(view.problems).toEqual([]);
  });

  test("a relay that is gone for 10 s makes the page stale, and it catches up without a reload", async () => {
    await using apart = await Stage.open();
    const first = await apart.relay({ args: ["--dashboard", "127.0.0.1:0"] });
    const address = text(first.ready, "dashboard");
    await using view = await browser.page();
    view.expect(/ERR_|Failed to load/);
    const { page } = view;
    await view.signIn(`${address}/`, first.key);
    await view.go("sessions");
    await page.getByText("live", { exact: true }).waitFor();
    const loadedAt = await page.evaluate("performance.timeOrigin");

    first.program.kill("SIGKILL");
    await page.getByText(/^stale since/).waitFor();
    await page.waitForTimeout(10_000);
    const again = ["--listen", `127.0.0.1:${first.port}`, "--dashboard", new URL(address).host];
    await apart.relay({ args: again });
    // Made while nobody was told: the page has it when it is back.
    await fetch(`${address}/v1/sessions`, {
      method: "POST",
      headers: { authorization: `Bearer ${first.key}`, "content-type": "application/json" },
      body: JSON.stringify({ name: "made-meanwhile" }),
    });
    await page.getByText("live", { exact: true }).waitFor();
    await page.getByText("made-meanwhile").waitFor();
    expect(await page.getByText(/^stale since/).count()).toBe(0);
    expect(await page.evaluate("performance.timeOrigin")).toBe(loadedAt);
  });

  test("what people wrote stays text, in every place that shows it", async () => {
    const response = await api("sessions", {
      method: "POST",
      body: JSON.stringify({ name: SCRIPT_TAG, labels: { note: SCRIPT_TAG } }),
    });
    expect(response.status).toBe(201);
    const made: { session: { id: string } } = JSON.parse(await response.text());
    await makeKey({ name: SCRIPT_TAG, scopes: ["sessions:read"] });
    await using view = await signedIn();
    const { page } = view;
    for (const place of ["", "sessions", `sessions/${made.session.id}`, "keys", "audit"]) {
      await view.go(place);
      await page.waitForTimeout(300);
      expect(await page.locator("main script, main img").count()).toBe(0);
      expect(await page.title()).toBe("memferry");
    }
    await view.go(`sessions/${made.session.id}`);
    await page.getByRole("heading", { level: 1, name: SCRIPT_TAG }).waitFor();
    expect(view.problems).toEqual([]);
  });

  test("another tenant sees nothing of it", async () => {
    const project = await api("projects", {
      method: "POST",
      body: JSON.stringify({ name: "another" }),
    });
    expect(project.status).toBe(201);
    const { id }: { id: string } = JSON.parse(await project.text());
    const key = await makeKey({ name: "theirs", scopes: ["admin"], projectId: id });
    const mine: { sessions: { id: string }[] } = JSON.parse(await (await api("sessions")).text());
    await using view = await signedIn(key);
    view.expect(/404/);
    const { page } = view;
    await view.go("sessions");
    await page.getByText("No sessions yet").waitFor();
    await view.go(`sessions/${mine.sessions[0]?.id}`);
    await page.getByText("There is no such session").waitFor();
  });

  test("an expired key is refused, and a page that uses one is signed out", async () => {
    const key = await makeKey({
      name: "short",
      scopes: ["sessions:read"],
      expiresAt: new Date(Date.now() + 4_000).toISOString(),
    });
    await using view = await signedIn(key);
    view.expect(/401/);
    await view.page.getByLabel("API key").waitFor();
  });

  test("the page is served with a policy that allows no inline code, and asks nobody else", async () => {
    const response = await fetch(dashboard);
    const policy = response.headers.get("content-security-policy") ?? "";
    expect(policy).toContain("default-src 'self'");
    expect(policy).not.toMatch(/unsafe|\*|https?:/);
    const page = await response.text();
    expect(page).not.toMatch(/<script(?![^>]*src)|<style|style=|onclick/);
    for (const asset of page.matchAll(/(?:src|href)="([^"]+)"/g)) {
      const file = await fetch(new URL(asset[1] ?? "", dashboard));
      expect(file.status).toBe(200);
      if (asset[1]?.includes("/assets/") === true) {
        expect(file.headers.get("cache-control")).toContain("immutable");
      }
    }
  });

  const PLACES = [
    "",
    "sessions",
    "reports",
    "relays",
    "usage",
    "keys",
    "webhooks",
    "audit",
    "settings",
  ];

  test.each(["light", "dark"] as const)(
    "axe finds nothing serious in any view: %s",
    async (colorScheme) => {
      const { seeder, leecher, sessionId } = await migrate();
      for (const width of [1440, 390]) {
        await using view = await browser.page({ colorScheme, width });
        await view.signIn(dashboard, relay.key);
        for (const place of [...PLACES, `sessions/${sessionId}`]) {
          await view.go(place);
          await view.page.waitForTimeout(600);
          const name = place.replace(/\/.*/, "-one") || "overview";
          await view.screenshot(name);
          expect({ place, width, problems: await view.accessibilityProblems() }).toEqual({
            place,
            width,
            problems: [],
          });
        }
        expect(view.problems).toEqual([]);
      }
      leecher.kill("SIGINT");
      await leecher.waitForExit();
      seeder.kill("SIGINT");
      await seeder.waitForExit();
    },
  );

  test("no key is in the relay's log, whatever pages did with it", () => {
    expect(relay.program.stderr).not.toContain(relay.key);
    expect(relay.program.stderr).not.toMatch(/mfk_[0-9a-f]{12}_/);
  });

  test("by keyboard alone: sign in, find a session, switch it over", async () => {
    const { seeder, leecher, sessionId } = await migrate();
    await using view = await browser.page();
    const { page } = view;
    await page.goto(dashboard);
    await page.getByLabel("API key").waitFor();
    await page.keyboard.type(relay.key);
    await page.keyboard.press("Enter");
    await page.getByRole("navigation", { name: "Views" }).waitFor();
    await page.keyboard.press("/");
    await page.getByRole("searchbox").waitFor();
    await page.keyboard.type(sessionId);
    await page.getByText(/^1 session/).waitFor();
    await page.locator(`#row-${sessionId}`).waitFor();
    await page.keyboard.press("Tab");
    for (let step = 0; step < 10; step++) {
      if (await page.evaluate<boolean>("document.activeElement?.role === 'grid'")) break;
      await page.keyboard.press("Tab");
    }
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Switch over" }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.locator(".view-head .runs-at-destination").waitFor();
    await leecher.expectExit(0);
    await seeder.expectExit(0);
  });
});
