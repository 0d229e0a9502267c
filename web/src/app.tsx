/**
 * The frame around every view: where one can go, whether what is shown is up to date, and who is signed in.
 *
 * @module
 */
import { lazy, Suspense, useEffect, useRef, type ReactNode } from "react";

import { refuse, resume, signOut, useMay, useSignIn } from "./data/account.ts";
import { useLive } from "./data/live.ts";
import { clock } from "./format.ts";
import { go, hrefOf, usePlace } from "./location.ts";
import { attentionOf } from "./model/session.ts";
import { AskProvider } from "./ui/dialog.tsx";
import { Blank } from "./ui/parts.tsx";
import { OverviewView } from "./views/overview.tsx";
import { SessionsView } from "./views/sessions.tsx";
import { SignInView } from "./views/sign-in.tsx";

// What is not on the way in the worst minutes is loaded when it is asked for.
const SessionView = lazy(async () => ({
  default: (await import("./views/session.tsx")).SessionView,
}));
const KeysView = lazy(async () => ({ default: (await import("./views/keys.tsx")).KeysView }));
const RelaysView = lazy(async () => ({ default: (await import("./views/relays.tsx")).RelaysView }));
const WebhooksView = lazy(async () => ({
  default: (await import("./views/webhooks.tsx")).WebhooksView,
}));
const AuditView = lazy(async () => ({ default: (await import("./views/audit.tsx")).AuditView }));
const UsageView = lazy(async () => ({ default: (await import("./views/usage.tsx")).UsageView }));
const ReportsView = lazy(async () => ({
  default: (await import("./views/reports.tsx")).ReportsView,
}));
const SettingsView = lazy(async () => ({
  default: (await import("./views/settings.tsx")).SettingsView,
}));

interface Entry {
  readonly path: string;
  readonly label: string;
  /** Not shown without it. */
  readonly scope: string;
}

const ENTRIES: readonly Entry[] = [
  { path: "", label: "Overview", scope: "sessions:read" },
  { path: "sessions", label: "Sessions", scope: "sessions:read" },
  { path: "reports", label: "Reports", scope: "sessions:read" },
  { path: "relays", label: "Relay nodes", scope: "sessions:read" },
  { path: "usage", label: "Usage", scope: "sessions:read" },
  { path: "keys", label: "API keys", scope: "admin" },
  { path: "webhooks", label: "Webhooks", scope: "admin" },
  { path: "audit", label: "Audit", scope: "admin" },
  { path: "settings", label: "Settings", scope: "sessions:read" },
];

export function App(): ReactNode {
  const signedIn = useSignIn();
  useEffect(() => void resume(), []);
  switch (signedIn.kind) {
    case "asking":
      return <Blank kind="loading" title="Asking the relay…" />;
    case "out":
      return <SignInView problem={signedIn.problem} />;
    case "in":
      return (
        <AskProvider>
          <Frame />
        </AskProvider>
      );
  }
}

function Frame(): ReactNode {
  const { path } = usePlace();
  const { refused } = useLive();
  const main = useRef<HTMLElement>(null);
  useEffect(() => {
    if (refused !== undefined) refuse(refused);
  }, [refused]);
  useShortcuts();
  // Who came by a link reads on from the new view.
  useEffect(() => {
    const search = searchWanted ? document.getElementById("search") : null;
    searchWanted = false;
    (search ?? main.current)?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }, [path]);
  return (
    <div className="frame">
      <a
        className="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          main.current?.focus();
        }}
      >
        Skip to the content
      </a>
      <Navigation />
      <div className="page">
        <StaleBanner />
        <main ref={main} id="main" tabIndex={-1}>
          <Suspense fallback={<Blank kind="loading" title="Loading…" />}>
            <View path={path} />
          </Suspense>
        </main>
      </div>
    </div>
  );
}

function View({ path }: { readonly path: string }): ReactNode {
  const [section = "", id] = path.split("/");
  switch (section) {
    case "":
      return <OverviewView />;
    case "sessions":
      return id === undefined ? <SessionsView /> : <SessionView key={id} id={id} />;
    case "reports":
      return <ReportsView />;
    case "relays":
      return <RelaysView />;
    case "usage":
      return <UsageView />;
    case "keys":
      return <KeysView />;
    case "webhooks":
      return <WebhooksView />;
    case "audit":
      return <AuditView />;
    case "settings":
      return <SettingsView />;
    default:
      return (
        <Blank kind="error" title="There is no such page">
          <a href={hrefOf("")}>Overview</a>
        </Blank>
      );
  }
}

function Navigation(): ReactNode {
  const { path } = usePlace();
  const { sessions } = useLive();
  const signedIn = useSignIn();
  const attention = sessions.filter((session) => attentionOf(session) !== undefined).length;
  const [section] = path.split("/");
  return (
    <header className="side">
      <a className="brand" href={hrefOf("")}>
        <span className="mark" aria-hidden="true" />
        memferry
      </a>
      <nav aria-label="Views">
        {ENTRIES.map((entry) => (
          <NavigationEntry
            key={entry.path}
            entry={entry}
            current={entry.path === section}
            badge={entry.path === "" ? attention : 0}
          />
        ))}
      </nav>
      <div className="side-foot">
        <Connection />
        {signedIn.kind === "in" && (
          <p className="soft account">
            <span title="Project">{signedIn.account.project.name}</span>
            <button type="button" className="quiet small" onClick={() => void signOut()}>
              Sign out
            </button>
          </p>
        )}
      </div>
    </header>
  );
}

function NavigationEntry(props: { entry: Entry; current: boolean; badge: number }): ReactNode {
  const { entry, current, badge } = props;
  if (!useMay(entry.scope)) return null;
  return (
    <a href={hrefOf(entry.path)} aria-current={current ? "page" : undefined}>
      {entry.label}
      {badge > 0 && (
        <span className="badge" aria-label={`${badge} need attention`}>
          {badge}
        </span>
      )}
    </a>
  );
}

function Connection(): ReactNode {
  const { loaded, staleSince } = useLive();
  const stale = staleSince !== undefined;
  return (
    <p className={`connection ${stale ? "stale" : loaded ? "live" : ""}`} role="status">
      {stale ? `stale since ${clock(staleSince)}` : loaded ? "live" : "connecting"}
    </p>
  );
}

function StaleBanner(): ReactNode {
  const { staleSince } = useLive();
  if (staleSince === undefined) return null;
  return (
    <p className="stale-banner" role="alert">
      The relay does not answer. What is shown is of {clock(staleSince)}; it is asked again by
      itself.
    </p>
  );
}

/** The view that is being gone to is to be searched. */
let searchWanted = false;

function useShortcuts(): void {
  useEffect(() => {
    let prefix = false;
    const onKeyDown = (event: KeyboardEvent): void => {
      const { target } = event;
      const typing =
        target instanceof HTMLInputElement ||
        target instanceof HTMLSelectElement ||
        target instanceof HTMLTextAreaElement;
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "/") {
        event.preventDefault();
        const search = document.getElementById("search");
        if (search !== null) return search.focus();
        searchWanted = true;
        go("sessions");
      } else if (prefix) {
        const to = { o: "", s: "sessions", n: "new", p: "peers", r: "relays" }[event.key];
        if (to !== undefined) go(to);
      }
      prefix = event.key === "g";
    };
    window.addEventListener("keydown", onKeyDown);
    return () => window.removeEventListener("keydown", onKeyDown);
  }, []);
}
