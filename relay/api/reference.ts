/**
 * The OpenAPI document as a page to read: plain HTML and one style sheet of the relay's own, no script, nothing from
 * elsewhere. Made once; everything that comes from the document is escaped.
 *
 * @module
 */
import { operationsOf, type ApiDocument, type Operation } from "./document.ts";

interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly format?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly default?: unknown;
  readonly items?: Schema;
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: Schema | boolean;
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
  readonly prefixItems?: readonly Schema[];
}

type Content = Readonly<Record<string, { readonly schema?: unknown }>>;

export const REFERENCE_STYLE = `
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); --quiet: color-mix(in srgb, currentColor 65%, transparent); --paper: color-mix(in srgb, currentColor 6%, transparent); }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; display: grid; grid-template-columns: 17rem minmax(0, 1fr); }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; padding: 1.25rem; border-right: 1px solid var(--line); font-size: 13px; }
nav h2 { font-size: 13px; margin: 1rem 0 0.25rem; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav a { color: inherit; text-decoration: none; display: block; padding: 2px 0; overflow-wrap: anywhere; }
a:hover, nav a:hover { text-decoration: underline; }
a:focus-visible, summary:focus-visible { outline: 2px solid; outline-offset: 2px; }
main { max-width: 60rem; padding: 1.25rem 2rem 6rem; }
h1 { font-size: 1.6rem; margin: 0 0 0.5rem; }
h2 { margin: 2.5rem 0 0.75rem; font-size: 1.2rem; border-bottom: 1px solid var(--line); }
article { margin: 1.5rem 0; padding: 1rem 1.25rem; border: 1px solid var(--line); border-radius: 8px; }
article h3 { margin: 0; font-size: 1rem; }
article h4 { margin: 1rem 0 0.25rem; font-size: 0.85rem; color: var(--quiet); }
code { font: 13px ui-monospace, monospace; background: var(--paper); border-radius: 4px; padding: 1px 4px; overflow-wrap: anywhere; }
.method { display: inline-block; min-width: 4.2em; font: 700 12px ui-monospace, monospace; text-transform: uppercase; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
td, th { text-align: left; vertical-align: top; padding: 4px 8px 4px 0; border-bottom: 1px solid var(--line); }
td:first-child { white-space: nowrap; }
.quiet { color: var(--quiet); }
@media (max-width: 50rem) { body { display: block; } nav { position: static; height: auto; border: 0; } main { padding: 1rem; } td:first-child { white-space: normal; } }
`;

export function referencePage(document: ApiDocument): string {
  const operations = [...operationsOf(document)];
  const groups = Map.groupBy(operations, ({ path }) => groupOf(path));
  const schemas = Object.entries(document.components?.schemas ?? {});
  const navigation = [...groups].map(
    ([group, members]) =>
      `<h2>${escape(group)}</h2><ul>${members
        .map(
          ({ method, path, operation }) =>
            `<li><a href="#${anchor(operation, method, path)}"><span class="method">${method}</span> ${escape(shortPath(path))}</a></li>`,
        )
        .join("")}</ul>`,
  );
  const sections = [...groups].map(
    ([group, members]) =>
      `<section><h2>${escape(group)}</h2>${members.map(operationArticle).join("")}</section>`,
  );
  const { title, version, description = "" } = document.info;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}: API reference</title>
<link rel="stylesheet" href="/reference.css">
</head>
<body>
<nav aria-label="Operations">${navigation.join("")}<h2>Schemas</h2><ul>${schemas
    .map(([name]) => `<li><a href="#schema-${escape(name)}">${escape(name)}</a></li>`)
    .join("")}</ul></nav>
<main>
<h1>${escape(title)} <span class="quiet">${escape(version)}</span></h1>
${prose(description)}
<p class="quiet">Made from <a href="/openapi.json">/openapi.json</a>, which is made from the code that checks the requests.</p>
${sections.join("\n")}
<section><h2>Schemas</h2>${schemas.map(([name, schema]) => schemaArticle(name, asSchema(schema))).join("\n")}</section>
</main>
</body>
</html>
`;
}

function groupOf(path: string): string {
  return /^\/v1\/([a-z-]+)/.exec(path)?.[1] ?? "relay";
}

function shortPath(path: string): string {
  return path.replace(/^\/v1\//, "");
}

function anchor({ operationId }: Operation, method: string, path: string): string {
  return escape(operationId ?? `${method}-${path}`.replaceAll(/[^\w-]+/g, "-"));
}

function operationArticle(entry: {
  readonly path: string;
  readonly method: string;
  readonly operation: Operation;
}): string {
  const { path, method, operation } = entry;
  const parameters = (operation.parameters ?? []).flatMap((parameter) =>
    "in" in parameter
      ? [
          row(
            `<code>${escape(parameter.name)}</code>`,
            `${escape(parameter.in)}${parameter.required === true ? ", required" : ""}`,
            `${typeOf(asSchema(parameter.schema ?? {}))} ${inline(parameter.description ?? asSchema(parameter.schema ?? {}).description ?? "")}`,
          ),
        ]
      : [],
  );
  const body = operation.requestBody;
  const responses = Object.entries(operation.responses ?? {}).toSorted(([a], [b]) =>
    a.localeCompare(b),
  );
  return `<article id="${anchor(operation, method, path)}">
<h3><span class="method">${method}</span> <code>${escape(path)}</code></h3>
<p>${inline(operation.summary ?? "")}</p>
${prose(operation.description ?? "")}
${operation.security === undefined ? '<p class="quiet">Needs no API key.</p>' : ""}
${parameters.length === 0 ? "" : `<h4>Parameters</h4><table>${parameters.join("")}</table>`}
${body !== undefined && "content" in body ? `<h4>Body</h4>${bodyOf(body.content)}` : ""}
<h4>Answers</h4><table>${responses
    .map(([status, response]) => {
      const known: { description?: string; content?: Content } = Object(response);
      return row(escape(status), inline(known.description ?? ""), contentOf(known.content ?? {}));
    })
    .join("")}</table>
</article>`;
}

function bodyOf(content: Content): string {
  return Object.entries(content)
    .map(([type, { schema }]) => {
      const known = asSchema(schema ?? {});
      return known.$ref === undefined
        ? `<p><code>${escape(type)}</code></p>${fields(known)}`
        : `<p><code>${escape(type)}</code>: ${typeOf(known)}</p>`;
    })
    .join("");
}

function contentOf(content: Content): string {
  return Object.entries(content)
    .map(
      ([type, { schema }]) =>
        `${typeOf(asSchema(schema ?? {}))} <span class="quiet">${escape(type)}</span>`,
    )
    .join("<br>");
}

function schemaArticle(name: string, schema: Schema): string {
  return `<article id="schema-${escape(name)}"><h3>${escape(name)}</h3>
<p>${inline(schema.description ?? "")}</p>${fields(schema)}</article>`;
}

/** An object's fields as a table; what is no object as its type. */
function fields(schema: Schema): string {
  const entries = Object.entries(schema.properties ?? {});
  if (entries.length === 0) return `<p>${typeOf(schema)}</p>`;
  const required = new Set(schema.required);
  return `<table>${entries
    .map(([name, field]) =>
      row(
        `<code>${escape(name)}</code>`,
        required.has(name) ? "" : "optional",
        `${typeOf(field)} ${inline(field.description ?? "")}`,
      ),
    )
    .join("")}</table>`;
}

function typeOf(schema: Schema): string {
  if (schema.$ref !== undefined) {
    const name = schema.$ref.split("/").at(-1) ?? "";
    return `<a href="#schema-${escape(name)}">${escape(name)}</a>`;
  }
  if (schema.const !== undefined) return `<code>${escape(JSON.stringify(schema.const))}</code>`;
  if (schema.enum !== undefined) {
    return schema.enum.map((value) => `<code>${escape(String(value))}</code>`).join(" | ");
  }
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices !== undefined) return choices.map(typeOf).join(" or ");
  if (schema.allOf !== undefined) return schema.allOf.map(typeOf).join(" and ");
  const types = typeof schema.type === "string" ? [schema.type] : (schema.type ?? ["anything"]);
  return types.map((type) => oneType(type, schema)).join(" or ");
}

function oneType(type: string, schema: Schema): string {
  if (type === "array") {
    if (schema.prefixItems !== undefined) return `[${schema.prefixItems.map(typeOf).join(", ")}]`;
    return `list of ${typeOf(schema.items ?? {})}`;
  }
  if (type === "object") {
    const entries = Object.entries(schema.properties ?? {});
    if (entries.length > 0) {
      return `{ ${entries.map(([name, field]) => `<code>${escape(name)}</code>: ${typeOf(field)}`).join(", ")} }`;
    }
    const values = schema.additionalProperties;
    return typeof values === "object" ? `map of ${typeOf(values)}` : "object";
  }
  const bounds = [
    schema.format,
    range(schema.minimum, schema.maximum, ""),
    range(schema.minLength, schema.maxLength, " characters"),
    schema.default === undefined ? undefined : `default ${JSON.stringify(schema.default)}`,
  ].filter((part) => part !== undefined);
  const more =
    bounds.length === 0 ? "" : ` <span class="quiet">(${escape(bounds.join(", "))})</span>`;
  return `${escape(type)}${more}`;
}

function range(
  least: number | undefined,
  most: number | undefined,
  unit: string,
): string | undefined {
  const top = most === undefined || most >= Number.MAX_SAFE_INTEGER ? undefined : most;
  const bottom = least === undefined || least <= Number.MIN_SAFE_INTEGER ? undefined : least;
  if (bottom === undefined && top === undefined) return undefined;
  if (top === undefined) return `at least ${String(bottom)}${unit}`;
  return bottom === undefined ? `at most ${top}${unit}` : `${bottom} to ${top}${unit}`;
}

function row(...cells: readonly string[]): string {
  return `<tr>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`;
}

function prose(text: string): string {
  return text
    .split(/\n\s*\n/)
    .filter((paragraph) => paragraph.trim() !== "")
    .map((paragraph) => `<p>${inline(paragraph)}</p>`)
    .join("\n");
}

/** Text with `code` in it. */
function inline(text: string): string {
  return escape(text).replaceAll(/`([^`]+)`/g, "<code>$1</code>");
}

function escape(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");
}

/** Of our own document: a schema or a reference to one, of which no more is read than `Schema` names. */
function asSchema(value: unknown): Schema {
  return typeof value === "object" && value !== null ? value : {};
}
