/**
 * The console's one page: sign in, and see every session move.
 *
 * @module
 */
import type { SessionAction, SessionBody } from "../../relay/app.ts";
import { act, ApiProblem, follow } from "./api.ts";
import { clock } from "./format.ts";
import { ACTION_LABELS, consequence, createSessionCard, type SessionCard } from "./session-card.ts";

const KEY_ITEM = "memferry-key";
const ENDED: ReadonlySet<SessionBody["state"]> = new Set(["done", "cancelled", "failed"]);
/** Cards on the page; the API has the rest. */
const SHOWN_MAX = 200;

function find<T extends HTMLElement>(id: string, type: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`the page has no ${id}`);
  return element;
}

const page = {
  connection: find("connection", HTMLElement),
  signOut: find("sign-out", HTMLButtonElement),
  signIn: find("sign-in", HTMLFormElement),
  key: find("key", HTMLInputElement),
  signInProblem: find("sign-in-problem", HTMLElement),
  overview: find("overview", HTMLElement),
  counts: find("counts", HTMLElement),
  problem: find("problem", HTMLElement),
  sessions: find("sessions", HTMLElement),
  empty: find("empty", HTMLElement),
  confirm: find("confirm", HTMLDialogElement),
  confirmTitle: find("confirm-title", HTMLElement),
  confirmText: find("confirm-text", HTMLElement),
  confirmYes: find("confirm-yes", HTMLButtonElement),
};

const shown = new Map<string, { session: SessionBody; readonly card: SessionCard }>();
let following: AbortController | undefined;

page.signIn.addEventListener("submit", (event) => {
  event.preventDefault();
  const key = page.key.value.trim();
  page.key.value = "";
  sessionStorage.setItem(KEY_ITEM, key);
  start(key);
});
page.signOut.addEventListener("click", () => signOut(""));

const kept = sessionStorage.getItem(KEY_ITEM);
if (kept === null) signOut("");
else start(kept);

function signOut(problem: string): void {
  following?.abort();
  following = undefined;
  sessionStorage.removeItem(KEY_ITEM);
  shown.clear();
  page.sessions.replaceChildren();
  page.connection.textContent = "";
  page.overview.hidden = true;
  page.signOut.hidden = true;
  page.signIn.hidden = false;
  page.signInProblem.textContent = problem;
  page.key.focus();
}

function start(key: string): void {
  following?.abort();
  following = new AbortController();
  page.signIn.hidden = true;
  page.overview.hidden = false;
  page.signOut.hidden = false;
  page.problem.textContent = "";
  page.connection.className = "connection";
  page.connection.textContent = "connecting";
  const follower = {
    onSnapshot(sessions: readonly SessionBody[]) {
      const ids = new Set(sessions.map((session) => session.id));
      for (const id of shown.keys()) if (!ids.has(id)) shown.delete(id);
      for (const session of sessions) show(session);
      arrange();
    },
    onSession(session: SessionBody) {
      show(session);
      arrange();
    },
    onStale(since: Date | undefined) {
      const stale = since !== undefined;
      page.sessions.classList.toggle("stale-data", stale);
      page.connection.className = stale ? "connection stale" : "connection live";
      page.connection.textContent = stale ? `stale since ${clock(since)}, reconnecting` : "live";
    },
    onRefused: (problem: ApiProblem) => signOut(problem.message),
  };
  follow(key, follower, following.signal).catch((error: unknown) => {
    page.problem.textContent = `The console stopped: ${String(error)}. Load the page again.`;
  });
}

function show(session: SessionBody): void {
  const { id } = session;
  const known = shown.get(id);
  // Sessions come as wholes; one that was overtaken on its way is older than what is here.
  if (known !== undefined && session.version < known.session.version) return;
  const card = known?.card ?? createSessionCard((action) => void confirm(id, action));
  card.update(session);
  shown.set(id, { session, card });
}

/** Those that move first, then the newest. */
function arrange(): void {
  const entries = [...shown.values()].toSorted((a, b) => {
    const ended = Number(ENDED.has(a.session.state)) - Number(ENDED.has(b.session.state));
    return ended || b.session.timings.createdAt.localeCompare(a.session.timings.createdAt);
  });
  for (const { session } of entries.slice(SHOWN_MAX)) shown.delete(session.id);
  const wanted = entries.slice(0, SHOWN_MAX).map(({ card }) => card.element);
  // Moved only when it must, so that a button that has the focus keeps it.
  const same =
    wanted.length === page.sessions.children.length &&
    wanted.every((element, at) => page.sessions.children[at] === element);
  if (!same) page.sessions.replaceChildren(...wanted);
  page.empty.hidden = wanted.length > 0;
  const active = entries.filter(({ session }) => !ENDED.has(session.state)).length;
  page.counts.textContent =
    wanted.length === 0 ? "" : `${active} active, ${entries.length - active} ended`;
}

async function confirm(id: string, action: SessionAction): Promise<void> {
  const session = shown.get(id)?.session;
  const key = sessionStorage.getItem(KEY_ITEM);
  if (session === undefined || key === null) return;
  const title = session.name || session.region?.name || id.slice(0, 8);
  page.confirmTitle.textContent = `${ACTION_LABELS[action]} ${title}?`;
  page.confirmText.textContent = consequence(action, session);
  page.confirmYes.textContent = action === "cancel" ? "Cancel the migration" : "Finalize now";
  page.confirm.returnValue = "no";
  page.confirm.showModal();
  await new Promise((resolve) => page.confirm.addEventListener("close", resolve, { once: true }));
  if (page.confirm.returnValue !== "yes") return;
  try {
    page.problem.textContent = "";
    show(await act(key, id, action));
    arrange();
  } catch (error) {
    page.problem.textContent =
      error instanceof ApiProblem ? error.message : "The relay does not answer.";
  }
}
