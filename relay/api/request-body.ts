/**
 * The JSON body of a request whose route the framework does not describe.
 *
 * @module
 */
import type { z } from "@hono/zod-openapi";
import type { Context } from "hono";

import { RelayError } from "../errors.ts";
import type { AppEnv } from "./env.ts";
import { invalidRequest } from "./refuse-invalid.ts";

/** No body is an empty one. @throws RelayError `REQUEST_MALFORMED`, `REQUEST_INVALID` */
export async function requestBody<Schema extends z.ZodType>(
  c: Context<AppEnv>,
  schema: Schema,
): Promise<z.infer<Schema>> {
  const text = await c.req.text();
  let json: unknown;
  try {
    json = text === "" ? {} : JSON.parse(text);
  } catch (cause) {
    throw new RelayError("REQUEST_MALFORMED", "the body is not JSON", { cause });
  }
  const parsed = schema.safeParse(json);
  if (!parsed.success) throw invalidRequest(parsed.error);
  return parsed.data;
}
