/**
 * `import { createClient } from "memferry/client"`: the relay's REST API, typed.
 *
 * @module
 */
export {
  createClient,
  type CallArguments,
  type CallOptions,
  type Client,
  type ClientOptions,
  type EventOptions,
  type RelayEvent,
} from "./client.ts";
export { ApiProblem, RelayUnreachable } from "./errors.ts";
export type { OperationName, Operations } from "./operations.ts";
