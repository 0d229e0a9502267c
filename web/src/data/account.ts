/**
 * Who is signed in.
 *
 * @module
 */
import { useSyncExternalStore } from "react";

import { ApiProblem, ask, change, setCsrfToken } from "./api.ts";
import { live } from "./live.ts";

export interface Account {
  readonly project: { readonly id: string; readonly name: string };
  /** `prefix` is the visible part of the API key. */
  readonly key: { readonly prefix: string; readonly scopes: readonly string[] };
}

/** As the relay answers; without a cookie there is no `signIn`. */
interface Whoami extends Account {
  readonly signIn: { readonly expiresAt: string; readonly csrfToken: string } | null;
}

export type SignIn =
  | { readonly kind: "asking" }
  | { readonly kind: "out"; readonly problem: string }
  | { readonly kind: "in"; readonly account: Account };

/** A browser that never signed in is not asked who it is: the refusal would look like an error. */
const SIGNED_IN_ITEM = "memferry-signed-in";

let state: SignIn = { kind: "asking" };
const listeners = new Set<() => void>();

function become(next: SignIn): void {
  state = next;
  for (const listener of listeners) listener();
}

function enter({ signIn: cookie, ...account }: Whoami): void {
  setCsrfToken(cookie?.csrfToken ?? "");
  localStorage.setItem(SIGNED_IN_ITEM, "yes");
  become({ kind: "in", account });
  live.start();
}

function leave(problem: string): void {
  live.stop();
  setCsrfToken("");
  localStorage.removeItem(SIGNED_IN_ITEM);
  become({ kind: "out", problem });
}

/** Takes up the sign-in that the browser holds, if it does. */
export async function resume(): Promise<void> {
  if (localStorage.getItem(SIGNED_IN_ITEM) === null) return leave("");
  try {
    enter(await ask<Whoami>("v1/whoami"));
  } catch (error) {
    const expected = error instanceof ApiProblem && error.status === 401;
    leave(expected ? "" : reasonOf(error));
  }
}

export async function signIn(key: string): Promise<void> {
  try {
    enter(await change<Whoami>("POST", "v1/sign-in", { key }));
  } catch (error) {
    leave(reasonOf(error));
  }
}

export async function signOut(): Promise<void> {
  try {
    await change("POST", "v1/sign-out");
    leave("");
  } catch (error) {
    leave(`Signed out here only: ${reasonOf(error)}`);
  }
}

/** The relay no longer takes it. */
export function refuse(problem: string): void {
  if (state.kind === "in") leave(problem);
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export function useSignIn(): SignIn {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => state,
  );
}

/** `admin` is good for everything in its project. */
export function useMay(scope: string): boolean {
  const signedIn = useSignIn();
  if (signedIn.kind !== "in") return false;
  const { scopes } = signedIn.account.key;
  return scopes.includes(scope) || (scope !== "operator" && scopes.includes("admin"));
}
