/**
 * Rows of a resource, in all of the states that asking for them can be in.
 *
 * @module
 */
import type { ReactNode } from "react";

import type { Resource } from "../data/resource.ts";
import { clock } from "../format.ts";
import { Blank } from "./parts.tsx";

export interface Column<Row> {
  readonly label: string;
  readonly cell: (row: Row) => ReactNode;
  /** Figures stand at the right. */
  readonly numeric?: boolean;
}

export interface ResourceTableProps<Value, Row> {
  readonly resource: Resource<Value>;
  readonly rowsOf: (value: Value) => readonly Row[];
  readonly keyOf: (row: Row) => string;
  readonly columns: readonly Column<Row>[];
  readonly label: string;
  /** What to say, and to do, when there are none. */
  readonly empty: ReactNode;
  readonly emptyTitle: string;
}

export function ResourceTable<Value, Row>(props: ResourceTableProps<Value, Row>): ReactNode {
  const { resource, label, emptyTitle, empty } = props;
  switch (resource.kind) {
    case "loading":
      return <Blank kind="loading" title="Asking the relay…" />;
    case "forbidden":
      return (
        <Blank kind="forbidden" title="This key may not see them">
          {resource.problem}
        </Blank>
      );
    case "missing":
      return <Blank kind="error" title={`This relay has no ${label.toLowerCase()}`} />;
    case "error":
      return (
        <Blank kind="error" title="The relay does not answer">
          {resource.problem}
        </Blank>
      );
    case "ready": {
      const rows = props.rowsOf(resource.value);
      if (rows.length === 0) {
        return (
          <Blank kind="empty" title={emptyTitle}>
            {empty}
          </Blank>
        );
      }
      return (
        <>
          {resource.staleSince !== undefined && (
            <p className="text-warn" role="status">
              Stale since {clock(resource.staleSince)}
            </p>
          )}
          <Table {...props} rows={rows} />
        </>
      );
    }
  }
}

export function Table<Row>(props: {
  readonly rows: readonly Row[];
  readonly keyOf: (row: Row) => string;
  readonly columns: readonly Column<Row>[];
  readonly label: string;
}): ReactNode {
  const { rows, keyOf, columns, label } = props;
  return (
    <div className="table-scroll" role="region" aria-label={label} tabIndex={0}>
      <table>
        <thead>
          <tr>
            {columns.map((column) => (
              <th
                key={column.label}
                scope="col"
                className={column.numeric === true ? "numeric" : ""}
              >
                {column.label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={keyOf(row)}>
              {columns.map((column) => (
                <td key={column.label} className={column.numeric === true ? "numeric figure" : ""}>
                  {column.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
