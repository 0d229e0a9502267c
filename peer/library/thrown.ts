/**
 * Errors that cross threads: a structured clone would lose their class and code.
 *
 * @module
 */
import { NativeError } from "../../native/index.ts";
import {
  ProtocolError,
  ProtocolErrorNumber,
  type ProtocolErrorCode,
} from "../../relay/protocol/errors.ts";
import { MigrationError, type MigrationErrorCode } from "../errors.ts";
import { ApiError } from "../net/api-client.ts";
import { LinkError, type LinkErrorCode } from "../net/errors.ts";

export interface Thrown {
  readonly name: string;
  readonly code: string | undefined;
  /** Of an HTTP answer. */
  readonly status: number;
  readonly message: string;
  readonly stack: string | undefined;
  readonly cause: Thrown | undefined;
}

/** A chain of causes longer than this says nothing more. */
const CAUSES_MAX = 8;

export function packError(error: unknown, depth = 0): Thrown {
  if (!(error instanceof Error)) {
    const message = String(error);
    return {
      name: "Error",
      code: undefined,
      status: 0,
      message,
      stack: undefined,
      cause: undefined,
    };
  }
  const code = "code" in error && typeof error.code === "string" ? error.code : undefined;
  return {
    name: error.name,
    code,
    status: error instanceof ApiError ? error.status : 0,
    message: error.message,
    stack: error.stack,
    cause:
      error.cause === undefined || depth >= CAUSES_MAX
        ? undefined
        : packError(error.cause, depth + 1),
  };
}

export function unpackError(thrown: Thrown): Error {
  const cause = thrown.cause === undefined ? undefined : unpackError(thrown.cause);
  const error = make(thrown, cause);
  if (thrown.stack !== undefined) error.stack = thrown.stack;
  return error;
}

function make({ name, code = "", status, message }: Thrown, cause: Error | undefined): Error {
  const options = cause === undefined ? {} : { cause };
  // The codes come from errors of these classes in this very package.
  switch (name) {
    case "MigrationError":
      return new MigrationError(code as MigrationErrorCode, message, options);
    case "ProtocolError":
      return new ProtocolError(
        code in ProtocolErrorNumber ? (code as ProtocolErrorCode) : "INTERNAL",
        message,
        options,
      );
    case "LinkError":
      return new LinkError(code as LinkErrorCode, message, options);
    case "NativeError":
      return new NativeError(code, message, options);
    case "ApiError":
      return new ApiError(status, code, message);
    default:
      return Object.assign(new Error(message, options), { name }, code === "" ? {} : { code });
  }
}
