/**
 * Requests made of the OpenAPI document alone, so that a test of every route needs no list of them.
 *
 * @module
 */
import fc from "fast-check";

import { operationsOf, type ApiDocument, type Operation } from "../../../relay/api/document.ts";
import type { Harness } from "./harness.ts";

export interface Route {
  readonly method: string;
  /** With `{id}` where an id is due. */
  readonly path: string;
  readonly operation: Operation;
  readonly operationId: string;
  /** The first part after `/v1/`: `sessions`. */
  readonly resource: string;
  /** Names of the ids in its path, in order. */
  readonly ids: readonly string[];
  readonly queries: readonly string[];
}

interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly example?: unknown;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly format?: string;
  readonly pattern?: string;
  readonly minimum?: number;
  readonly minLength?: number;
  readonly minItems?: number;
  readonly items?: Schema;
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
}

export async function apiDocument(harness: Harness): Promise<ApiDocument> {
  const response = await harness.app.request("/openapi.json");
  // What the relay made of its own routes.
  return (await response.json()) as ApiDocument;
}

/** Those under /v1. */
export function routesOf(document: ApiDocument): Route[] {
  return [...operationsOf(document)]
    .filter(({ path }) => path.startsWith("/v1/"))
    .map(({ path, method, operation }) => ({
      method: method.toUpperCase(),
      path,
      operation,
      operationId: operation.operationId ?? `${method} ${path}`,
      resource: /^\/v1\/([a-z-]+)/.exec(path)?.[1] ?? "",
      ids: [...path.matchAll(/\{(\w+)\}/g)].map(([, name = ""]) => name),
      queries: (operation.parameters ?? []).flatMap((parameter) =>
        "in" in parameter && parameter.in === "query" ? [parameter.name] : [],
      ),
    }));
}

/** The schema of a route's body, if it takes one. */
export function bodySchema({ operation }: Route): Schema | undefined {
  const { requestBody } = operation;
  if (requestBody === undefined || !("content" in requestBody)) return undefined;
  // Of the same document; the sampler looks at no more than `Schema` says.
  return requestBody.content["application/json"]?.schema as Schema | undefined;
}

/** The smallest value that a schema allows: examples first, and no field that may be left out. */
export function sample(document: ApiDocument, schema: Schema): unknown {
  const known = resolve(document, schema);
  for (const given of [known.example, known.const, known.default]) {
    if (given !== undefined) return given;
  }
  if (known.enum !== undefined) return known.enum[0];
  const [choice] = known.anyOf ?? known.oneOf ?? [];
  if (choice !== undefined) return sample(document, choice);
  if (known.allOf !== undefined) {
    return Object.assign({}, ...known.allOf.map((part) => sample(document, part)));
  }
  const type = typeof known.type === "string" ? known.type : known.type?.[0];
  switch (type) {
    case "object":
      return Object.fromEntries(
        (known.required ?? []).map((name) => [
          name,
          sample(document, known.properties?.[name] ?? {}),
        ]),
      );
    case "array":
      return Array.from({ length: known.minItems ?? 0 }, () => sample(document, known.items ?? {}));
    case "integer":
    case "number":
      return known.minimum ?? 1;
    case "boolean":
      return false;
    case "string":
      return text(known);
    default:
      throw new Error(`a value cannot be made of ${JSON.stringify(known)}`);
  }
}

/** Names of the fields of a body, that hold an id of something else. */
export function idFields(document: ApiDocument, schema: Schema | undefined): string[] {
  if (schema === undefined) return [];
  const known = resolve(document, schema);
  return Object.keys(known.properties ?? {}).filter((name) => /Ids?$/.test(name));
}

function resolve(document: ApiDocument, schema: Schema): Schema {
  if (schema.$ref === undefined) return schema;
  const name = schema.$ref.split("/").at(-1) ?? "";
  const found: unknown = document.components?.schemas?.[name];
  if (typeof found !== "object" || found === null) throw new Error(`no schema ${schema.$ref}`);
  return resolve(document, { ...found });
}

function text({ format, pattern, minLength }: Schema): string {
  if (format === "date-time") return new Date(Date.now() + 3_600_000).toISOString();
  if (format === "date") return new Date().toISOString().slice(0, 10);
  if (format === "uri") return "https://example.org/";
  if (pattern !== undefined) {
    const matching = fc.stringMatching(new RegExp(pattern));
    const long = matching.filter((candidate) => candidate.length >= (minLength ?? 0));
    return fc.sample(long, { numRuns: 1, seed: 1 })[0] ?? "";
  }
  return "x".repeat(minLength ?? 1);
}
