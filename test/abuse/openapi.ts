/**
 * Requests made up from the relay's own /openapi.json, and answers held to it.
 *
 * @module
 */
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import fc from "fast-check";

type Json = unknown;
type Schema = Readonly<Record<string, unknown>> | boolean;

interface Parameter {
  readonly name: string;
  readonly in: "path" | "query" | "header" | "cookie";
  readonly required?: boolean;
  readonly schema?: Schema;
}

interface MediaType {
  readonly schema?: Schema;
}

interface Described {
  readonly operationId?: string;
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly content: Readonly<Record<string, MediaType>> };
  readonly responses: Readonly<
    Record<
      string,
      {
        readonly content?: Readonly<Record<string, MediaType>>;
        readonly headers?: Readonly<Record<string, unknown>>;
      }
    >
  >;
  readonly security?: readonly unknown[];
}

export interface OpenApi {
  readonly openapi: string;
  readonly paths: Readonly<Record<string, Readonly<Record<string, Described>>>>;
  readonly components?: Json;
}

export interface Operation {
  readonly method: string;
  readonly path: string;
  readonly id: string;
  readonly described: Described;
}

export interface Request {
  readonly operation: Operation;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | undefined;
}

const METHODS = ["get", "put", "post", "delete", "patch", "head", "options"];
/** How often a value is one that the schema does not allow. */
const WRONG_PERCENT = 15;

export function operationsOf(document: OpenApi): readonly Operation[] {
  return Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item)
      .filter(([method]) => METHODS.includes(method))
      .map(([method, described]) => ({
        method: method.toUpperCase(),
        path,
        id: described.operationId ?? `${method} ${path}`,
        described,
      })),
  );
}

/** Values that have broken something somewhere. */
const NASTY = fc.oneof(
  fc.constantFrom<Json>(
    null,
    "",
    "0",
    -1,
    0,
    1e308,
    2 ** 53,
    -(2 ** 63),
    1.5,
    true,
    [],
    {},
    [[]],
    "../../etc/passwd",
    "%00",
    "\u0000",
    "\ud800",
    "' or 1=1 --",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "\r\nX-Injected: 1",
    "${jndi:ldap://127.0.0.1/x}",
    "a".repeat(5_000),
    { __proto__: null, constructor: { prototype: { polluted: 1 } } },
    JSON.parse('{"__proto__": {"polluted": 1}}'),
  ),
  fc.jsonValue({ maxDepth: 2 }),
);

export class Model {
  readonly #document: OpenApi;
  readonly #ajv: Ajv2020;
  readonly #validators = new Map<Schema, ValidateFunction>();
  /** Identifiers that the relay has told of, by the name of the field. */
  readonly #known = new Map<string, string[]>();

  constructor(document: OpenApi) {
    this.#document = document;
    this.#ajv = new Ajv2020({ strict: false, allErrors: false });
    // CommonJS: the function is the default of what is imported as the default.
    const add = addFormats as unknown as typeof addFormats.default;
    add(this.#ajv);
    this.#ajv.addSchema({ $id: "relay", components: document.components ?? {} });
  }

  /** A request for the operation; mostly as the document wants it, sometimes not. */
  request(operation: Operation): fc.Arbitrary<Request> {
    const { described, path, method } = operation;
    const parameters = described.parameters ?? [];
    const value = (parameter: Parameter): fc.Arbitrary<string | undefined> => {
      const given = this.#parameter(parameter);
      return parameter.required === true || parameter.in === "path"
        ? given
        : fc.option(given, { nil: undefined, freq: 2 });
    };
    const media = described.requestBody?.content ?? {};
    const [mediaType, { schema = true } = {}] = Object.entries(media)[0] ?? [undefined, {}];
    const body =
      mediaType === undefined
        ? fc.oneof(
            { weight: 19, arbitrary: fc.constant(undefined) },
            { weight: 1, arbitrary: fc.string() },
          )
        : fc.oneof(
            { weight: 17, arbitrary: this.#value(schema).map((json) => JSON.stringify(json)) },
            { weight: 1, arbitrary: NASTY.map((json) => JSON.stringify(json)) },
            {
              weight: 1,
              arbitrary: fc.constantFrom("", "{", "[", "nul", "\u0000", '{"a":1}{"b":2}'),
            },
            { weight: 1, arbitrary: fc.constant(undefined) },
          );
    return fc
      .record({
        values: fc.tuple(...parameters.map(value)),
        body,
        contentType: fc.oneof(
          { weight: 19, arbitrary: fc.constant(mediaType ?? "application/json") },
          { weight: 1, arbitrary: fc.constantFrom("text/plain", "application/xml", "x", "") },
        ),
        extra: fc.oneof(
          { weight: 9, arbitrary: fc.constant("") },
          {
            weight: 1,
            arbitrary: fc.constantFrom(
              "limit=1e9",
              "cursor=AAAA",
              "limit=-1",
              "x=%ff",
              "%",
              "limit=2&limit=3",
            ),
          },
        ),
        ifMatch: fc.constantFrom(undefined, undefined, undefined, '"1"', "*", "W/x", '"999"'),
        idempotencyKey: fc.constantFrom(undefined, undefined, undefined, "a", "b", "x".repeat(300)),
      })
      .map((made) => {
        let target = path;
        const query = new URLSearchParams();
        const headers: Record<string, string> = {};
        for (const [i, parameter] of parameters.entries()) {
          const text = made.values[i];
          if (text === undefined) continue;
          if (parameter.in === "path") {
            target = target.replace(`{${parameter.name}}`, encodeURIComponent(text.toWellFormed()));
          } else if (parameter.in === "query") query.set(parameter.name, text);
          else if (parameter.in === "header")
            headers[parameter.name.toLowerCase()] = headerText(text);
        }
        const sends = made.body !== undefined && method !== "GET" && method !== "HEAD";
        if (sends && made.contentType !== "") headers["content-type"] = made.contentType;
        if (made.ifMatch !== undefined && method !== "GET") headers["if-match"] ??= made.ifMatch;
        if (made.idempotencyKey !== undefined && method === "POST") {
          headers["idempotency-key"] ??= made.idempotencyKey;
        }
        const search = [query.toString(), made.extra].filter((part) => part !== "").join("&");
        return {
          operation,
          url: search === "" ? target : `${target}?${search}`,
          headers,
          body: sends ? made.body : undefined,
        };
      });
  }

  /** What of an answer is not as the document says; empty if all is. */
  problems(
    operation: Operation,
    answer: { status: number; contentType: string; text: string },
  ): string[] {
    const { status, contentType, text } = answer;
    const described = operation.described.responses[String(status)];
    if (status >= 500 && status !== 503) return [`status ${status}: ${text.slice(0, 300)}`];
    if (described === undefined)
      return [`status ${status} is not in the document: ${text.slice(0, 300)}`];
    const media = contentType.split(";")[0]?.trim() ?? "";
    if (described.content === undefined)
      return text === "" ? [] : [`a body where none is described`];
    const found = described.content[media];
    if (found === undefined)
      return [`${media} is not among ${Object.keys(described.content).join(", ")}`];
    if (!media.endsWith("json")) return [];
    let json: Json;
    try {
      json = JSON.parse(text);
    } catch {
      return [`no JSON: ${text.slice(0, 100)}`];
    }
    this.#learn(json);
    if (found.schema === undefined) return [];
    const validate = this.#validator(found.schema);
    if (validate(json)) return [];
    return [`${this.#ajv.errorsText(validate.errors)}: ${text.slice(0, 300)}`];
  }

  #validator(schema: Schema): ValidateFunction {
    const known = this.#validators.get(schema);
    if (known !== undefined) return known;
    // References are to the whole document.
    const text = JSON.stringify(schema).replaceAll('"#/components/', '"relay#/components/');
    const validate = this.#ajv.compile(JSON.parse(text) as Schema);
    this.#validators.set(schema, validate);
    return validate;
  }

  /** Remembers identifiers, so that later requests meet something. */
  #learn(json: Json, name = ""): void {
    if (typeof json === "string" && /id$/i.test(name) && json.length < 100) {
      const known = this.#known.get(name) ?? [];
      if (!known.includes(json)) known.push(json);
      if (known.length > 50) known.shift();
      this.#known.set(name, known);
    } else if (Array.isArray(json)) {
      for (const item of json.slice(0, 5)) this.#learn(item, name);
    } else if (typeof json === "object" && json !== null) {
      for (const [key, value] of Object.entries(json)) this.#learn(value, key);
    }
  }

  #parameter({ name, schema = true }: Parameter): fc.Arbitrary<string> {
    const fromSchema = this.#value(schema).map((value) =>
      typeof value === "string" ? value : JSON.stringify(value),
    );
    const known = [...this.#known.values()].flat();
    if (!/id$/i.test(name) || known.length === 0) return fromSchema;
    return fc.oneof(
      { weight: 8, arbitrary: fc.constantFrom(...known) },
      { weight: 2, arbitrary: fromSchema },
    );
  }

  #value(schema: Schema, depth = 0): fc.Arbitrary<Json> {
    const right = this.#right(schema, depth);
    if (depth > 4) return right;
    const wrong = Math.ceil(WRONG_PERCENT / (depth + 1));
    return fc.oneof({ weight: 100 - wrong, arbitrary: right }, { weight: wrong, arbitrary: NASTY });
  }

  #right(schema: Schema, depth: number): fc.Arbitrary<Json> {
    if (typeof schema === "boolean") return fc.jsonValue({ maxDepth: 1 });
    const { $ref, type } = schema;
    if (typeof $ref === "string") return this.#right(this.#resolve($ref), depth);
    if ("const" in schema) return fc.constant(schema["const"]);
    const options = schema["enum"];
    if (Array.isArray(options)) return fc.constantFrom(...(options as Json[]));
    for (const key of ["anyOf", "oneOf"] as const) {
      const of = schema[key];
      if (Array.isArray(of)) {
        return fc.oneof(...of.map((one) => this.#value(one as Schema, depth + 1)));
      }
    }
    const all = schema["allOf"];
    if (Array.isArray(all))
      return this.#right(Object.assign({}, ...(all as object[])) as Schema, depth);
    const types = Array.isArray(type) ? (type as string[]) : [typeof type === "string" ? type : ""];
    return fc.oneof(...types.map((one) => this.#typed(one, schema, depth)));
  }

  #typed(
    type: string,
    schema: Readonly<Record<string, unknown>>,
    depth: number,
  ): fc.Arbitrary<Json> {
    const number = (key: string, fallback: number): number =>
      typeof schema[key] === "number" ? schema[key] : fallback;
    switch (type) {
      case "string": {
        const { pattern, format } = schema;
        if (format === "date-time")
          return fc.date({ noInvalidDate: true }).map((d) => d.toISOString());
        if (format === "date")
          return fc.date({ noInvalidDate: true }).map((d) => d.toISOString().slice(0, 10));
        if (typeof pattern === "string") {
          try {
            return fc.stringMatching(new RegExp(pattern, "u"));
          } catch {
            return fc.string();
          }
        }
        return fc.string({
          minLength: number("minLength", 0),
          maxLength: Math.min(200, number("maxLength", 40)),
        });
      }
      case "integer":
        return fc.integer({
          min: Math.max(number("minimum", -1_000), -(2 ** 31)),
          max: Math.min(number("maximum", 1_000_000), 2 ** 31 - 1),
        });
      case "number":
        return fc.double({
          min: number("minimum", -1e9),
          max: number("maximum", 1e9),
          noNaN: true,
        });
      case "boolean":
        return fc.boolean();
      case "null":
        return fc.constant(null);
      case "array":
        return fc.array(this.#value((schema["items"] ?? true) as Schema, depth + 1), {
          maxLength: 4,
        });
      case "object": {
        const properties = (schema["properties"] ?? {}) as Record<string, Schema>;
        const required = (schema["required"] ?? []) as string[];
        const named = fc.record(
          Object.fromEntries(
            Object.entries(properties).map(([key, one]) => [key, this.#value(one, depth + 1)]),
          ),
          { requiredKeys: required.filter((key) => key in properties) },
        );
        const more = schema["additionalProperties"];
        if (typeof more !== "object" || more === null) return named;
        const rest = fc.dictionary(
          fc.stringMatching(/^[a-z]{1,8}$/),
          this.#value(more as Schema, depth + 1),
          {
            maxKeys: 3,
          },
        );
        return fc.tuple(named, rest).map(([a, b]) => ({ ...b, ...a }));
      }
      default:
        return fc.jsonValue({ maxDepth: 1 });
    }
  }

  #resolve(reference: string): Schema {
    let at: Json = this.#document;
    for (const part of reference.replace(/^#\//, "").split("/")) {
      at = typeof at === "object" && at !== null ? (at as Record<string, Json>)[part] : undefined;
    }
    if (typeof at !== "object" || at === null) throw new Error(`${reference} leads nowhere`);
    // Whatever a reference in an OpenAPI document leads to here is a schema.
    return at as Schema;
  }
}

/** What a client can put into a header at all. */
function headerText(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, "?").trim();
}
