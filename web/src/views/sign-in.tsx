/**
 * The way in.
 *
 * @module
 */
import { useState, type FormEvent, type ReactNode } from "react";

import { signIn } from "../data/account.ts";

export function SignInView({ problem }: { readonly problem: string }): ReactNode {
  const [key, setKey] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    setBusy(true);
    void signIn(key.trim()).finally(() => setBusy(false));
  };
  return (
    <main className="sign-in-page">
      <form className="card sign-in" onSubmit={submit}>
        <p className="brand">
          <span className="mark" aria-hidden="true" />
          memferry
        </p>
        <h1>Sign in</h1>
        <p className="soft">
          The relay wrote an API key to a file named <code>relay-key</code> when it first started,
          and printed where.
        </p>
        <label htmlFor="key">API key</label>
        <input
          id="key"
          type="password"
          autoComplete="off"
          spellCheck={false}
          required
          autoFocus
          placeholder="mfk_…"
          value={key}
          aria-describedby="sign-in-problem"
          onChange={(event) => setKey(event.target.value)}
        />
        <p id="sign-in-problem" className="problem" role="alert">
          {problem}
        </p>
        <button type="submit" className="primary" disabled={busy}>
          {busy ? "Asking the relay…" : "Sign in"}
        </button>
        <p className="soft hint">
          Sent to this relay only, and kept in a cookie that no script can read.
        </p>
      </form>
    </main>
  );
}
