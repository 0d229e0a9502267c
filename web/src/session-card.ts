/**
 * One session on the page. What came from people is set as text and never as markup.
 *
 * @module
 */
import type { SessionAction, SessionBody } from "../../relay/app.ts";
import { bytes, duration, moment, rate } from "./format.ts";

export interface SessionCard {
  readonly element: HTMLElement;
  update(session: SessionBody): void;
}

const STATE_LABELS: Readonly<Record<SessionBody["state"], string>> = {
  pending: "waiting for peers",
  joined: "joined",
  tracking: "tracking",
  precopy: "pre-copy",
  finalizing: "finalizing",
  suspended: "suspended",
  committed: "committed",
  postcopy: "post-copy",
  paused: "paused",
  done: "done",
  cancelled: "cancelled",
  failed: "failed",
};

const PATH_LABELS: Readonly<Record<NonNullable<SessionBody["path"]>["kind"], string>> = {
  direct: "direct",
  relayWebTransport: "relay, WebTransport",
  relayWs: "relay, WebSocket",
  memory: "in process",
};

export const ACTION_LABELS: Readonly<Record<SessionAction, string>> = {
  finalize: "Finalize",
  cancel: "Cancel",
};

/** What happens, in the words of whoever runs the workload. */
export function consequence(action: SessionAction, session: SessionBody): string {
  if (action === "cancel") {
    return "The migration stops and what was copied is discarded. The workload stays at the source and keeps running. This cannot be undone: a new attempt needs new tickets.";
  }
  const expected = session.progress?.expectedDowntimeMs ?? null;
  const pause = expected === null ? "for a moment" : `for about ${duration(expected)}`;
  return `The workload is suspended ${pause}, the rest is sent, and it resumes at the destination. Once it has moved there is no way back by cancelling.`;
}

export function createSessionCard(onAction: (action: SessionAction) => void): SessionCard {
  const element = make("article", "card session");
  const name = make("h3");
  const size = make("span", "size");
  const chip = make("span", "chip");
  const title = make("div", "title");
  title.append(name, size, chip);

  const sent = svg("rect", { class: "sent", height: "100%" });
  const ready = svg("rect", { class: "ready", height: "100%" });
  const bar = svg("svg", { class: "bar", role: "img" });
  bar.append(sent, ready);

  const figures = make("dl", "figures");
  const figure = (label: string): HTMLElement => {
    const term = make("dt");
    term.textContent = label;
    const value = make("dd");
    const group = make("div");
    group.append(term, value);
    figures.append(group);
    return value;
  };
  const authority = figure("Runs at");
  authority.className = "authority";
  const readyFigure = figure("Ready");
  const sendRate = figure("Sending");
  const dirtyRate = figure("Dirtied");
  const eta = figure("Time left");
  const downtime = figure("Downtime");
  const path = figure("Path");
  path.parentElement?.classList.add("wide");
  const reason = make("p", "reason");
  const buttons = make("div", "buttons");
  const actions = (["finalize", "cancel"] as const).map((action) => {
    const button = make("button", action === "cancel" ? "quiet" : "");
    button.textContent = ACTION_LABELS[action];
    button.addEventListener("click", () => onAction(action));
    buttons.append(button);
    return { action, button };
  });
  const meta = make("p", "meta");
  element.append(title, bar, figures, reason, buttons, meta);

  return {
    element,
    update(session) {
      const { region, progress, timings, seeder, leecher } = session;
      name.textContent = session.name || region?.name || session.id.slice(0, 8);
      size.textContent = region === null ? "" : bytes(region.bytes);
      chip.textContent = STATE_LABELS[session.state];
      chip.className = `chip ${session.state}`;

      const total = progress?.chunksTotal ?? 0;
      const part = (chunks: number): number =>
        total === 0 ? 0 : Math.min(100, (chunks / total) * 100);
      const readyPart = session.state === "done" ? 100 : part(progress?.chunksReady ?? 0);
      const sentPart = Math.max(readyPart, part(progress?.chunksSent ?? 0));
      sent.setAttribute("width", `${sentPart}%`);
      ready.setAttribute("width", `${readyPart}%`);
      bar.setAttribute(
        "aria-label",
        `${readyPart.toFixed(0)} % ready, ${sentPart.toFixed(0)} % sent`,
      );

      const moving =
        progress !== null &&
        ["precopy", "finalizing", "suspended", "committed", "postcopy"].includes(session.state);
      authority.textContent = session.authority.holder === "seeder" ? "source" : "destination";
      readyFigure.textContent = progress === null ? "–" : `${readyPart.toFixed(1)} %`;
      sendRate.textContent = moving ? rate(progress.sendBytesPerS) : "–";
      dirtyRate.textContent = moving ? rate(progress.dirtyBytesPerS) : "–";
      eta.textContent =
        moving && progress.convergence.verdict === "no"
          ? "does not converge"
          : duration(moving ? progress.etaMs : null);
      downtime.textContent =
        timings.downtimeMs === null && progress?.expectedDowntimeMs
          ? `about ${duration(progress.expectedDowntimeMs)}`
          : duration(timings.downtimeMs);
      path.textContent =
        session.path === null
          ? "–"
          : PATH_LABELS[session.path.kind] +
            (session.path.rttMs === null ? "" : `, ${session.path.rttMs.toFixed(0)} ms`);
      reason.textContent = session.reason?.message ?? "";
      reason.hidden = reason.textContent === "";
      for (const { action, button } of actions)
        button.hidden = !session.allowedActions.includes(action);
      buttons.hidden = session.allowedActions.length === 0;
      const peer = (label: string, { connected, host }: SessionBody["seeder"]): string =>
        `${label} ${host ?? ""}${host === null ? "" : " "}${connected ? "connected" : "not connected"}`;
      meta.textContent = [
        peer("source", seeder),
        peer("destination", leecher),
        `made ${moment(new Date(timings.createdAt))}`,
        session.id.slice(0, 8),
      ].join(" · ");
    },
  };
}

function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = "",
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className !== "") element.className = className;
  return element;
}

function svg(tag: "svg" | "rect", attributes: Readonly<Record<string, string>>): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
