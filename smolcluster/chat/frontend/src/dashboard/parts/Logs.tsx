/** The log of every machine, merged by time: filtered, searched, followed. */
import { useDeferredValue, useId, useMemo, useState } from "react";
import type { Run } from "../api";
import type { Shown } from "../live/board";
import { useLogs } from "../live/useLogs";
import type { SetView } from "../live/useView";
import { LEVELS, type Level, type View } from "../pure/view";
import { whole } from "../pure/numbers";
import { LogSheet } from "./LogSheet";
import { NodeChoice } from "./NodeChoice";

interface Props {
  shown: Shown;
  run: Run;
  view: View;
  setView: SetView;
}

const LEVEL_WORDS: Record<Level, string> = { "": "all", INFO: "info and above", WARNING: "warnings and errors", ERROR: "errors only" };

export function Logs({ shown, run, view, setView }: Props) {
  const [level, find] = [useId(), useId()];
  const [sought, setSought] = useState(view.find);
  const asked = useMemo(() => ({ node: view.node, level: view.level, contains: view.find }), [view.node, view.level, view.find]);
  const live = shown.connection === "live";
  const log = useLogs(asked, shown.state?.data ?? "", live, view.follow);
  const marked = useDeferredValue(view.find);
  const filtered = view.node !== "" || view.level !== "" || view.find !== "";
  return (
    <section className="card" aria-labelledby="logs">
      <header>
        <h2 id="logs">Logs of all machines, by time</h2>
      </header>
      <div className="tools" role="search" aria-label="Log lines">
        <NodeChoice run={run} shown={shown} node={view.node} onChange={(node) => setView({ node })} />
        <div>
          <label htmlFor={level}>Level</label>
          <select id={level} value={view.level} onChange={(event) => setView({ level: event.target.value as Level })}>
            {LEVELS.map((one) => (
              <option key={one} value={one}>
                {LEVEL_WORDS[one]}
              </option>
            ))}
          </select>
        </div>
        <div className="grow">
          <label htmlFor={find}>Find</label>
          <input
            id={find}
            type="search"
            maxLength={200}
            value={sought}
            onChange={(event) => {
              setSought(event.target.value);
              setView({ find: event.target.value });
            }}
          />
        </div>
        <button
          type="button"
          aria-pressed={view.follow}
          onClick={() => {
            if (!view.follow && log.newer) log.toEnd();
            setView({ follow: !view.follow });
          }}
        >
          Follow
        </button>
      </div>
      <LogSheet log={log} find={marked} follow={view.follow} onFollow={(follow) => setView({ follow })} />
      <p className="logfoot">
        <span role="status">{log.trouble || (log.lines.length === 0 && !log.loading ? (filtered ? "No line is like that." : "No machine has said anything yet.") : "")}</span>
        <span>
          {whole(log.lines.length)} {log.lines.length === 1 ? "line" : "lines"}
          {log.older ? ", older ones above" : ""}
          {log.newer ? ", newer ones below" : ""}
        </span>
      </p>
    </section>
  );
}
