/**
 * Who did what.
 *
 * @module
 */
import type { ReactNode } from "react";

import { useResource } from "../data/resource.ts";
import { moment, UNKNOWN } from "../format.ts";
import { setQuery, usePlace } from "../location.ts";
import { Card } from "../ui/parts.tsx";
import { ResourceTable } from "../ui/table.tsx";

interface Entry {
  readonly id: number;
  readonly at: string;
  readonly actor: string;
  readonly remoteAddress: string;
  readonly requestId: string;
  readonly action: string;
  readonly target: { readonly kind: string; readonly id: string };
  readonly before: Readonly<Record<string, unknown>> | null;
  readonly after: Readonly<Record<string, unknown>> | null;
}

export function AuditView(): ReactNode {
  const { query } = usePlace();
  const action = query["action"] ?? "";
  const search = new URLSearchParams({ limit: "200", ...(action === "" ? {} : { action }) });
  const { resource } = useResource<{ entries: readonly Entry[] }>(`v1/audit?${search}`, 10_000);
  return (
    <>
      <div className="view-head">
        <h1>Audit</h1>
        <div className="spacer" />
        <input
          id="search"
          type="search"
          aria-label="Only this action"
          placeholder="Only this action, as key.revoke"
          value={action}
          onChange={(event) => setQuery({ action: event.target.value })}
        />
      </div>
      <Card title="The newest 200">
        <ResourceTable
          label="Audit entries"
          resource={resource}
          rowsOf={({ entries }) => entries}
          keyOf={({ id }) => String(id)}
          emptyTitle="Nothing was changed"
          empty="Every change of every resource is written down here."
          columns={[
            { label: "when", cell: ({ at }) => moment(at) },
            { label: "who", cell: ({ actor }) => <code>{actor}</code> },
            { label: "did", cell: (entry) => <strong>{entry.action}</strong> },
            {
              label: "to",
              cell: ({ target }) => (
                <span title={target.id}>
                  {target.kind} {target.id.slice(0, 12)}
                </span>
              ),
            },
            { label: "what changed", cell: (entry) => <Change {...entry} /> },
            { label: "from", cell: ({ remoteAddress }) => remoteAddress || UNKNOWN },
          ]}
        />
      </Card>
    </>
  );
}

function Change({ before, after }: Pick<Entry, "before" | "after">): ReactNode {
  const names = [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])];
  const text = (value: unknown): string =>
    value === undefined ? "nothing" : typeof value === "string" ? value : JSON.stringify(value);
  return (
    <span className="change">
      {names
        .map((name) =>
          before === null
            ? `${name} ${text(after?.[name])}`
            : `${name} ${text(before[name])} → ${text(after?.[name])}`,
        )
        .join(", ")}
    </span>
  );
}
