/**
 * How the page looks, and who looks at it.
 *
 * @module
 */
import { useState, type ReactNode } from "react";

import { useSignIn } from "../data/account.ts";
import { Card, Facts } from "../ui/parts.tsx";
import { applyTheme, chosenTheme, THEMES } from "../ui/theme.ts";

const SHORTCUTS: readonly (readonly [string, string])[] = [
  ["/", "search sessions"],
  ["g o", "overview"],
  ["g s", "sessions"],
  ["g n", "new session"],
  ["g p", "peers"],
  ["g r", "relay nodes"],
  ["j, k or arrows", "move in a list"],
  ["Enter", "open"],
  ["Space", "choose"],
  ["+, −, 0", "zoom the region map"],
];

export function SettingsView(): ReactNode {
  const signedIn = useSignIn();
  const [theme, setTheme] = useState(chosenTheme);
  return (
    <>
      <div className="view-head">
        <h1>Settings</h1>
      </div>
      <div className="columns">
        <Card title="Appearance">
          <fieldset className="choices">
            <legend className="visually-hidden">Theme</legend>
            {THEMES.map((name) => (
              <label key={name}>
                <input
                  type="radio"
                  name="theme"
                  checked={theme === name}
                  onChange={() => {
                    applyTheme(name);
                    setTheme(name);
                  }}
                />
                {name}
              </label>
            ))}
          </fieldset>
        </Card>
        {signedIn.kind === "in" && (
          <Card title="Signed in">
            <Facts
              facts={[
                { label: "project", value: signedIn.account.project.name },
                { label: "key", value: <code>{signedIn.account.key.prefix}</code> },
                { label: "scopes", value: signedIn.account.key.scopes.join(", ") },
              ]}
            />
          </Card>
        )}
        <Card title="Keyboard">
          <dl className="shortcuts">
            {SHORTCUTS.map(([keys, what]) => (
              <div key={keys}>
                <dt>
                  <kbd>{keys}</kbd>
                </dt>
                <dd>{what}</dd>
              </div>
            ))}
          </dl>
        </Card>
      </div>
    </>
  );
}
