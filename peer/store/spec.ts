/**
 * Which store is meant: the STORE of `memferry mount STORE`.
 *
 * @module
 */
import { storeEnvironment } from "../config.ts";
import { MigrationError } from "../errors.ts";
import { parseSize } from "../cli/size.ts";
import type { RedisPlace } from "./redis-store.ts";
import type { S3Place } from "./s3-store.ts";

export type StoreSpec =
  | { readonly kind: "memory"; readonly bytes: number }
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "directory"; readonly path: string }
  | ({ readonly kind: "redis" } & RedisPlace)
  | ({ readonly kind: "s3" } & S3Place);

/** For `--help`. */
export const STORE_KINDS =
  "memory:SIZE, file:PATH, directory:PATH, redis://HOST[:PORT][/DB][#NAME], rediss://..., s3://BUCKET[/PREFIX][?endpoint=URL&region=R&style=path|virtual]";

/** @throws MigrationError `USAGE` */
export function parseStore(text: string): StoreSpec {
  const [, kind, place = ""] = /^([a-z0-9]+):(.+)$/s.exec(text) ?? [];
  switch (kind) {
    case "memory": {
      const bytes = parseSize(place);
      if (bytes === undefined || bytes === 0) {
        throw usage(`memory:${place} has no size: write it as memory:256MiB`);
      }
      return { kind, bytes };
    }
    case "file":
    case "directory":
      return { kind, path: place };
    case "redis":
    case "rediss":
      return redisPlace(urlOf(text));
    case "s3":
      return s3Place(urlOf(text));
    default:
      // The text may have a password in it.
      throw usage(`this is no store: use ${STORE_KINDS}`);
  }
}

function urlOf(text: string): URL {
  // What is wrong with it is not repeated: it may have a password in it.
  if (URL.canParse(text)) return new URL(text);
  throw usage(`the address of the store cannot be read: write it as one of ${STORE_KINDS}`);
}

/** The password may come by `REDISCLI_AUTH`, as for `redis-cli`. */
function redisPlace(url: URL): StoreSpec {
  const store = decodeURIComponent(url.hash.slice(1)) || "region";
  if (!/^[\w.-]{1,128}$/.test(store)) {
    throw usage("the name of a store in Redis has letters, digits, dots, dashes and underscores");
  }
  if (url.hostname === "" || !/^\/?\d*$/.test(url.pathname) || url.search !== "") {
    throw usage("write the store as redis://HOST[:PORT][/DB][#NAME]");
  }
  const server = new URL(url);
  server.hash = "";
  const password = storeEnvironment().redisPassword;
  if (server.password === "" && password !== undefined)
    server.password = encodeURIComponent(password);
  return { kind: "redis", url: server, store };
}

function s3Place(url: URL): StoreSpec {
  const { searchParams: options } = url;
  for (const name of options.keys()) {
    if (!["endpoint", "region", "style"].includes(name))
      throw usage(`s3: ${name} is not known: there are endpoint, region and style`);
  }
  if (url.username !== "" || url.password !== "") {
    throw usage(
      "s3: credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), ~/.aws or a role, not from the address",
    );
  }
  const [endpoint, region, style] = ["endpoint", "region", "style"].map(
    (name) => options.get(name) ?? undefined,
  );
  if (style !== undefined && style !== "path" && style !== "virtual")
    throw usage("s3: style is path or virtual");
  if (endpoint !== undefined && !/^https?:\/\//.test(endpoint))
    throw usage("s3: endpoint is an http:// or https:// address");
  return {
    kind: "s3",
    bucket: url.hostname,
    prefix: decodeURIComponent(url.pathname).replaceAll(/^\/+|\/+$/g, ""),
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(region === undefined ? {} : { region }),
    ...(style === undefined ? {} : { style }),
  };
}

function usage(message: string): MigrationError {
  return new MigrationError("USAGE", message);
}
