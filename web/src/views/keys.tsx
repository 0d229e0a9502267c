/**
 * The project's API keys. A secret is shown once, here, and kept nowhere.
 *
 * @module
 */
import { useState, type FormEvent, type ReactNode } from "react";

import { change } from "../data/api.ts";
import { useSignIn } from "../data/account.ts";
import { useResource } from "../data/resource.ts";
import type { KeyBody } from "../../../relay/app.ts";
import { moment, UNKNOWN } from "../format.ts";
import { useAsk } from "../ui/dialog.tsx";
import { Card, Copyable, Tag } from "../ui/parts.tsx";
import { ResourceTable } from "../ui/table.tsx";

const SCOPES: readonly (readonly [string, string])[] = [
  ["sessions:read", "see sessions"],
  ["sessions:write", "make and change sessions"],
  ["sessions:control", "switch over, pause, cancel"],
  ["peers:read", "see hosts and their regions"],
  ["peers:write", "enroll and order hosts"],
  ["admin", "everything in the project"],
  ["operator", "the relay itself, every project"],
];
const LIFETIMES_D = [7, 30, 90, 365] as const;

export function KeysView(): ReactNode {
  const { resource, reload } = useResource<{ keys: readonly KeyBody[] }>(
    "v1/keys?limit=200",
    30_000,
  );
  const { ask } = useAsk();
  const signedIn = useSignIn();
  const mine = signedIn.kind === "in" ? signedIn.account.key.prefix : "";
  return (
    <>
      <div className="view-head">
        <h1>API keys</h1>
      </div>
      <NewKey onMade={reload} />
      <Card title="Keys">
        <ResourceTable
          label="Keys"
          resource={resource}
          rowsOf={({ keys }) => keys}
          keyOf={({ id }) => id}
          emptyTitle="No keys"
          empty="Make one above."
          columns={[
            {
              label: "key",
              cell: ({ prefix }) => (
                <>
                  <code>mfk_{prefix}_…</code>
                  {prefix === mine ? <span className="soft"> this one</span> : null}
                </>
              ),
            },
            {
              label: "name",
              cell: ({ name }) => <span className="cell-wrap">{name || UNKNOWN}</span>,
            },
            {
              label: "scopes",
              cell: ({ scopes }) => <span className="cell-wrap">{scopes.join(", ")}</span>,
            },
            {
              label: "state",
              cell: ({ state }) => <Tag tone={state === "active" ? "good" : "idle"}>{state}</Tag>,
            },
            { label: "last used", cell: ({ lastUsedAt }) => moment(lastUsedAt) },
            {
              label: "expires",
              cell: ({ expiresAt }) => (expiresAt === null ? "never" : moment(expiresAt)),
            },
            {
              label: "",
              cell: (key) =>
                key.state === "active" && (
                  <button
                    type="button"
                    className="danger small"
                    onClick={() =>
                      ask(
                        {
                          title: `Revoke ${key.name || key.prefix}`,
                          consequence:
                            key.prefix === mine
                              ? "This is the key that you are signed in with: you will be signed out at once, and so is everybody else who uses it."
                              : "Whoever uses this key is refused from now on. It cannot be undone.",
                          confirm: "Revoke",
                          dangerous: true,
                        },
                        async () => {
                          await change("DELETE", `v1/keys/${key.id}`);
                          reload();
                          return "The key is revoked.";
                        },
                      )
                    }
                  >
                    Revoke…
                  </button>
                ),
            },
          ]}
        />
      </Card>
    </>
  );
}

function NewKey({ onMade }: { readonly onMade: () => void }): ReactNode {
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState<readonly string[]>(["sessions:read"]);
  const [days, setDays] = useState("90");
  const [secret, setSecret] = useState<string>();
  const { tell } = useAsk();
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    const expiresAt =
      days === ""
        ? {}
        : { expiresAt: new Date(Date.now() + Number(days) * 86_400_000).toISOString() };
    change<{ secret: string }>("POST", "v1/keys", { name, scopes, ...expiresAt }).then(
      (made) => {
        setSecret(made.secret);
        setName("");
        onMade();
      },
      (error: unknown) => tell(error instanceof Error ? error.message : String(error), true),
    );
  };
  return (
    <Card title="New key">
      {secret !== undefined && (
        <div className="secret" role="alert">
          <strong>Copy it now: it is shown this once.</strong>
          <Copyable text={secret} label="the key" />
          <div>
            <button type="button" className="quiet small" onClick={() => setSecret(undefined)}>
              I have it
            </button>
          </div>
        </div>
      )}
      <form className="form" onSubmit={submit}>
        <label>
          Name
          <input value={name} maxLength={128} onChange={(event) => setName(event.target.value)} />
        </label>
        <label>
          Ends
          <select value={days} onChange={(event) => setDays(event.target.value)}>
            {LIFETIMES_D.map((value) => (
              <option key={value} value={value}>
                in {value} days
              </option>
            ))}
            <option value="">never</option>
          </select>
        </label>
        <fieldset className="wide checks">
          <legend>May</legend>
          {SCOPES.map(([scope, what]) => (
            <label key={scope} className="check">
              <input
                type="checkbox"
                checked={scopes.includes(scope)}
                onChange={(event) =>
                  setScopes(
                    event.target.checked
                      ? [...scopes, scope]
                      : scopes.filter((other) => other !== scope),
                  )
                }
              />
              {what} <code>{scope}</code>
            </label>
          ))}
        </fieldset>
        <div className="wide">
          <button type="submit" className="primary" disabled={scopes.length === 0}>
            Make the key
          </button>
        </div>
      </form>
    </Card>
  );
}
