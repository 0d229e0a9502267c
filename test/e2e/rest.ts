/**
 * The relay's REST API as a test speaks it.
 *
 * @module
 */
import { Agent, request } from "node:https";

import type { TestRelay } from "./harness.ts";

export type Body = Record<string, unknown>;

export class Rest {
  readonly #relay: TestRelay;
  // Its certificate is its own; that is looked at elsewhere.
  readonly #agent = new Agent({ rejectUnauthorized: false });

  constructor(relay: TestRelay) {
    this.#relay = relay;
  }

  get(path: string): Promise<Body> {
    return this.#expect("GET", path);
  }

  post(path: string, body: Body): Promise<Body> {
    return this.#expect("POST", path, body);
  }

  /** With the version that it has now. */
  async patch(path: string, body: Body): Promise<Body> {
    const { headers } = await this.ask("GET", path);
    return await this.#expect("PATCH", path, body, { "if-match": String(headers["etag"]) });
  }

  async #expect(
    method: string,
    path: string,
    body?: Body,
    headers: Record<string, string> = {},
  ): Promise<Body> {
    const { status, body: answer } = await this.ask(method, path, body, headers);
    if (status >= 200 && status < 300) return answer;
    throw new Error(`${method} ${path}: ${status} ${JSON.stringify(answer)}`);
  }

  async ask(
    method: string,
    path: string,
    body?: Body,
    headers: Record<string, string> = {},
  ): Promise<{
    readonly status: number;
    readonly headers: NodeJS.Dict<string | string[]>;
    readonly body: Body;
  }> {
    return await new Promise((resolve, reject) => {
      const asked = request(
        new URL(path, this.#relay.url),
        {
          method,
          agent: this.#agent,
          headers: {
            authorization: `Bearer ${this.#relay.key}`,
            ...(body === undefined ? {} : { "content-type": "application/json" }),
            ...headers,
          },
        },
        (response) => {
          const parts: Buffer[] = [];
          response.on("data", (part: Buffer) => parts.push(part));
          response.on("error", reject);
          response.on("end", () => {
            const text = Buffer.concat(parts).toString();
            resolve({
              status: response.statusCode ?? 0,
              headers: response.headers,
              body: text === "" ? {} : (JSON.parse(text) as Body),
            });
          });
        },
      );
      asked.on("error", reject);
      asked.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }
}
