/**
 * A real Chromium, and a page signed in to a real relay.
 *
 * What the page says on its console counts: an error there fails the test that let it happen.
 *
 * @module
 */
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

import axe from "axe-core";
import { chromium, type Browser, type Page } from "playwright-core";

import { isRoot } from "../support/programs.mjs";

const SCREENSHOTS = fileURLToPath(new URL("../.cache/screenshots", import.meta.url));

export interface View {
  readonly colorScheme?: "light" | "dark";
  readonly width?: number;
}

export class TestBrowser implements AsyncDisposable {
  readonly #browser: Browser;

  private constructor(browser: Browser) {
    this.#browser = browser;
  }

  static async open(executablePath: string): Promise<TestBrowser> {
    const browser = await chromium.launch({
      executablePath,
      // Its sandbox does not start as root.
      chromiumSandbox: !isRoot(),
    });
    return new TestBrowser(browser);
  }

  async page(view: View = {}): Promise<TestPage> {
    const { colorScheme = "light", width = 1440 } = view;
    const page = await this.#browser.newPage({ colorScheme, viewport: { width, height: 900 } });
    return new TestPage(page, `${colorScheme}-${width}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#browser.close();
  }
}

export class TestPage implements AsyncDisposable {
  readonly page: Page;
  readonly #name: string;
  readonly #problems: string[] = [];
  /** Of answers that a test provokes: the browser writes each down as an error. */
  #expected: RegExp | undefined;

  constructor(page: Page, name: string) {
    this.page = page;
    this.#name = name;
    page.on("console", (message) => {
      if (message.type() !== "error" && message.type() !== "warning") return;
      if (this.#expected?.test(message.text()) === true) return;
      this.#problems.push(message.text());
    });
    page.on("pageerror", (error) => this.#problems.push(error.message));
    page.on("request", (request) => {
      const { origin } = new URL(request.url());
      if (origin !== new URL(page.url()).origin && page.url() !== "about:blank") {
        this.#problems.push(`a request to ${origin}`);
      }
    });
  }

  expect(problem: RegExp): void {
    this.#expected = problem;
  }

  /** What the page complained of, or whom else it asked. */
  get problems(): readonly string[] {
    return this.#problems;
  }

  async signIn(url: string, key: string): Promise<void> {
    await this.page.goto(url);
    await this.page.getByLabel("API key").fill(key);
    await this.page.getByRole("button", { name: "Sign in" }).click();
    await this.page.getByRole("navigation", { name: "Views" }).waitFor();
  }

  async go(place: string): Promise<void> {
    await this.page.evaluate(`location.hash = ${JSON.stringify(`#/${place}`)}`);
    // One frame for the view.
    await this.page.evaluate("new Promise((resolve) => requestAnimationFrame(() => resolve()))");
  }

  async screenshot(name: string): Promise<void> {
    await mkdir(SCREENSHOTS, { recursive: true });
    await this.page.screenshot({
      path: path.join(SCREENSHOTS, `${name}-${this.#name}.png`),
      fullPage: true,
    });
  }

  /** What axe finds that is serious or worse: the rule, and where. */
  async accessibilityProblems(): Promise<readonly string[]> {
    // Past the page's policy, which lets no foreign script in.
    await this.page.evaluate(axe.source);
    return await this.page.evaluate(async () => {
      const { axe: engine } = globalThis as unknown as {
        axe: {
          run(): Promise<{
            violations: { id: string; impact: string; nodes: { target: string[] }[] }[];
          }>;
        };
      };
      const { violations } = await engine.run();
      return violations
        .filter(({ impact }) => impact === "serious" || impact === "critical")
        .map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target.join(" ")).join(", ")}`);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.page.close();
  }
}
