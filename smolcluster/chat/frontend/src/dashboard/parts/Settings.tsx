/** What was decided before the run: the prediction beside what it is, what each rank does, every setting. */
import { useState } from "react";
import type { Run, State } from "../api";
import { mb, ms, short, whole } from "../pure/numbers";

export function Settings({ run, state }: { run: Run; state: State | null }) {
  return (
    <>
      {run.kind === "serving" ? null : (
        <section className="card" aria-labelledby="predicted">
          <h2 id="predicted">Predicted and measured</h2>
          <Predicted run={run} state={state} />
        </section>
      )}
      <section className="card" aria-labelledby="ranks">
        <h2 id="ranks">Plan</h2>
        <p className="quiet">
          {[run.cluster, run.params ? `${short(run.params)} parameters` : null, run.global_batch ? `${whole(run.global_batch)} samples a step` : null]
            .filter((part) => part)
            .join(" · ")}
        </p>
        <Ranks run={run} />
        {(run.notes ?? []).length > 0 ? (
          <ul>
            {(run.notes ?? []).map((note) => (
              <li key={note}>{note}</li>
            ))}
          </ul>
        ) : null}
      </section>
      <AllSettings settings={run.settings ?? {}} />
    </>
  );
}

function Predicted({ run, state }: { run: Run; state: State | null }) {
  const said = run.predicted;
  if (!said) return <p className="empty">Its plan predicted nothing: there were no measured speeds (ansible-playbook profile.yml).</p>;
  const steps = (state?.nodes ?? []).flatMap((node) => (node.steps ? [node.steps] : []));
  const most = (pick: (one: (typeof steps)[number]) => number) => (steps.length > 0 ? Math.max(...steps.map(pick)) : null);
  const rows: [string, number, number | null, (value: number) => string][] = [
    ["a step", said.step_ms, most((one) => one.step_ms), ms],
    ["computing, the slowest machine", said.compute_ms, most((one) => one.compute_ms), ms],
    ["communication", said.communication_ms, most((one) => one.communication_ms), ms],
  ];
  if (said.tokens_per_s) rows.push([`${run.counts}/s`, said.tokens_per_s, state?.tokens_per_s ?? null, short]);
  return (
    <Table label="Figures" head={["", "predicted", "now", "times"]} left={1}>
      {rows.map(([name, was, is, say]) => (
        <tr key={name}>
          <th scope="row">{name}</th>
          <td className="number">{say(was)}</td>
          <td className="number">{is === null ? "–" : say(is)}</td>
          <td className="number">{is === null || was === 0 ? "–" : (is / was).toFixed(2)}</td>
        </tr>
      ))}
    </Table>
  );
}

function Ranks({ run }: { run: Run }) {
  const ranks = run.ranks ?? [];
  if (ranks.length === 0) return <p className="empty">The plan cannot be read.</p>;
  const layers = ranks.some((rank) => rank.layers);
  return (
    <Table label="Ranks" head={["machine", "rank", "role", "device", ...(layers ? ["layers"] : []), "samples", "threads", "model state", "memory"]} left={layers ? 5 : 4}>
      {ranks.map((rank) => (
        <tr key={rank.rank}>
          <th scope="row">{rank.node}</th>
          <td>{rank.rank}</td>
          <td>{rank.role}</td>
          <td>{rank.device}</td>
          {layers ? <td>{rank.layers?.join(":") ?? "–"}</td> : null}
          <td className="number">{rank.samples ?? "–"}</td>
          <td className="number">{rank.threads}</td>
          <td className="number">{rank.memory_mb === null || rank.memory_mb === undefined ? "–" : mb(rank.memory_mb)}</td>
          <td className="number">{rank.machine_mb === null || rank.machine_mb === undefined ? "–" : mb(rank.machine_mb)}</td>
        </tr>
      ))}
    </Table>
  );
}

function AllSettings({ settings }: { settings: Record<string, string> }) {
  const [find, setFind] = useState("");
  const all = Object.entries(settings);
  const found = all.filter(([key, value]) => `${key} ${value}`.toLowerCase().includes(find.toLowerCase()));
  return (
    <section className="card" aria-labelledby="settings">
      <header>
        <h2 id="settings">Settings</h2>
        <span className="count">
          {found.length} of {all.length}
        </span>
      </header>
      <div className="tools">
        <div>
          <label htmlFor="setting">Find a setting</label>
          <input id="setting" type="search" value={find} onChange={(event) => setFind(event.target.value)} />
        </div>
      </div>
      {found.length === 0 ? (
        <p className="empty">{all.length === 0 ? "The run's folder has none." : `None has “${find}” in it.`}</p>
      ) : (
        <Table label="All settings" head={["key", "value"]} left={2}>
          {found.map(([key, value]) => (
            <tr key={key}>
              <th scope="row">{key}</th>
              <td className="value">{value}</td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}

interface TableProps {
  label: string;
  head: string[];
  /** So many columns are words. */
  left: number;
  children: React.ReactNode;
}

function Table({ label, head, left, children }: TableProps) {
  return (
    <div className="wide" tabIndex={0} role="region" aria-label={label}>
      <table>
        <thead>
          <tr>
            {head.map((name, index) =>
              name === "" ? (
                <td key={index} />
              ) : (
                <th key={index} scope="col" className={index >= left ? "number" : ""}>
                  {name}
                </th>
              ),
            )}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}
