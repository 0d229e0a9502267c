/**
 * Something of the API that a view shows and asks for again from time to time.
 *
 * @module
 */
import { useCallback, useEffect, useState } from "react";

import { ApiProblem, ask } from "./api.ts";

export type Resource<T> =
  | { readonly kind: "loading" }
  | { readonly kind: "ready"; readonly value: T; readonly staleSince: Date | undefined }
  | { readonly kind: "forbidden"; readonly problem: string }
  | { readonly kind: "missing" }
  | { readonly kind: "error"; readonly problem: string };

export interface ResourceHandle<T> {
  readonly resource: Resource<T>;
  readonly reload: () => void;
}

/** @param path `undefined` asks for nothing. @param everyMs 0: once. */
export function useResource<T>(path: string | undefined, everyMs = 0): ResourceHandle<T> {
  const [resource, setResource] = useState<Resource<T>>({ kind: "loading" });
  const [round, setRound] = useState(0);
  const reload = useCallback(() => setRound((before) => before + 1), []);

  useEffect(() => setResource({ kind: "loading" }), [path]);
  useEffect(() => {
    if (path === undefined) return undefined;
    const abort = new AbortController();
    const load = async (): Promise<void> => {
      try {
        const value = await ask<T>(path, abort.signal);
        setResource({ kind: "ready", value, staleSince: undefined });
      } catch (error) {
        if (abort.signal.aborted) return;
        setResource((shown) => afterFailure(shown, error));
      }
    };
    void load();
    const timer = everyMs === 0 ? 0 : window.setInterval(() => void load(), everyMs);
    return () => {
      abort.abort();
      window.clearInterval(timer);
    };
  }, [path, everyMs, round]);
  return { resource, reload };
}

/** What is shown already stays, and says that it is old. */
function afterFailure<T>(shown: Resource<T>, error: unknown): Resource<T> {
  const status = error instanceof ApiProblem ? error.status : 0;
  const problem = error instanceof Error ? error.message : String(error);
  if (status === 403 || status === 401) return { kind: "forbidden", problem };
  if (status === 404) return { kind: "missing" };
  if (shown.kind === "ready") return { ...shown, staleSince: shown.staleSince ?? new Date() };
  return { kind: "error", problem };
}
