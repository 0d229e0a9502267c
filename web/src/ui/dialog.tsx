/**
 * Questions before something is done, and notices of what became of it.
 *
 * @module
 */
import {
  createContext,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useState,
  type ReactNode,
} from "react";

import type { Confirmation } from "../model/session.ts";

interface Asked extends Confirmation {
  readonly run: () => Promise<string>;
}

interface Notice {
  readonly id: number;
  readonly text: string;
  readonly failed: boolean;
}

export interface Ask {
  /** @param run Does it; resolves with a sentence on the outcome, rejects with the reason. */
  readonly ask: (question: Confirmation, run: () => Promise<string>) => void;
  readonly tell: (text: string, failed?: boolean) => void;
}

const AskContext = createContext<Ask>({ ask: () => undefined, tell: () => undefined });
const NOTICE_MS = 8_000;
const NOTICES_MAX = 4;

export function useAsk(): Ask {
  return useContext(AskContext);
}

export function AskProvider({ children }: { readonly children: ReactNode }): ReactNode {
  const [asked, setAsked] = useState<Asked>();
  const [busy, setBusy] = useState(false);
  const [notices, setNotices] = useState<readonly Notice[]>([]);
  const dialog = useRef<HTMLDialogElement>(null);
  const next = useRef(0);

  const context = useMemo<Ask>(() => {
    const tell = (text: string, failed = false): void => {
      const id = next.current++;
      setNotices((shown) => [...shown, { id, text, failed }].slice(-NOTICES_MAX));
      // A failure stays until somebody has seen it.
      if (failed) return;
      window.setTimeout(
        () => setNotices((shown) => shown.filter((one) => one.id !== id)),
        NOTICE_MS,
      );
    };
    return { tell, ask: (question, run) => setAsked({ ...question, run }) };
  }, []);

  useEffect(() => {
    if (asked !== undefined && dialog.current?.open === false) dialog.current.showModal();
  }, [asked]);

  const close = (): void => {
    dialog.current?.close();
    setAsked(undefined);
  };
  const confirm = async (): Promise<void> => {
    if (asked === undefined) return;
    setBusy(true);
    try {
      context.tell(await asked.run());
    } catch (error) {
      context.tell(error instanceof Error ? error.message : String(error), true);
    } finally {
      setBusy(false);
      close();
    }
  };

  return (
    <AskContext value={context}>
      {children}
      <dialog ref={dialog} onClose={() => setAsked(undefined)} aria-labelledby="question">
        {asked !== undefined && (
          <>
            <h2 id="question">{asked.title}</h2>
            <p className="consequence">{asked.consequence}</p>
            <div className="buttons">
              <button type="button" className="quiet" autoFocus onClick={close} disabled={busy}>
                Back
              </button>
              <button
                type="button"
                className={asked.dangerous ? "danger" : "primary"}
                disabled={busy}
                onClick={() => void confirm()}
              >
                {asked.confirm}
              </button>
            </div>
          </>
        )}
      </dialog>
      <div className="notices" role="status" aria-live="polite">
        {notices.map(({ id, text, failed }) => (
          <div key={id} className={`notice ${failed ? "tone-bad" : "tone-good"}`}>
            <span>{text}</span>
            <button
              type="button"
              className="quiet small"
              aria-label="Dismiss"
              onClick={() => setNotices((shown) => shown.filter((one) => one.id !== id))}
            >
              ×
            </button>
          </div>
        ))}
      </div>
    </AskContext>
  );
}
