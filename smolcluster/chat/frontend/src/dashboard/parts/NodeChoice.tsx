/** One machine, or all. */
import { useId } from "react";
import type { Run } from "../api";
import type { Shown } from "../live/board";

interface Props {
  run: Run;
  shown: Shown;
  node: string;
  onChange: (node: string) => void;
}

export function NodeChoice({ run, shown, node, onChange }: Props) {
  const id = useId();
  const names = new Set([...(run.nodes ?? []).map((one) => one.name), ...(shown.state?.nodes ?? []).map((one) => one.node)]);
  // A link may name one that is not there: then nothing is found, and it says so.
  if (node !== "") names.add(node);
  return (
    <div>
      <label htmlFor={id}>Machine</label>
      <select id={id} value={node} onChange={(event) => onChange(event.target.value)}>
        <option value="">all</option>
        {[...names].map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </div>
  );
}
