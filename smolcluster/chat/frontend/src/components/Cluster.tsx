/** The cluster in full: the model, its stages, what happened to them, and how to connect them anew. */
import { useEffect, useState } from "react";
import { hasDashboard, reconnect } from "../api/http";
import type { Server } from "../state/useServer";
import { brief, doing, pace, state, story } from "../state/words";
import { Panel } from "./Panel";
import { TabletMark } from "./TabletMark";
import { Tablets } from "./Tablets";

export function Cluster({ server, onClose }: { server: Server; onClose: () => void }) {
  const [said, setSaid] = useState("");
  const [dashboard, setDashboard] = useState(false);
  const { config, stages } = server;
  useEffect(() => void hasDashboard().then(setDashboard), []);
  const again = async () => {
    setSaid("Connecting all stages anew …");
    try {
      await reconnect();
      setSaid("All stages are connected.");
    } catch (error) {
      setSaid(`${(error as Error).message.replace(/\.$/, "")}. Start what is missing again, then press Reconnect.`);
    }
    server.look();
  };
  const events = [...(stages?.events ?? [])].reverse();
  return (
    <Panel title="The cluster" side="right" onClose={onClose}>
      {config ? (
        <p>
          <strong>{config.model}</strong>: {brief(config.params / 1e6)} million parameters in {config.layers} layers,{" "}
          {config.precision}, a context of {config.limits.context} tokens. {config.source}, licence {config.licence}.
        </p>
      ) : null}
      <p>{state(stages) || `All stages are alive; ${brief(stages?.tokens_per_s ?? 0)} tokens/s now.`}</p>
      <div className="wide" tabIndex={0} role="region" aria-label="Stages">
        <table>
          <thead>
            <tr>
              {["Node", "Layers", "Pace", "Health"].map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {(stages?.stages ?? []).map((stage) => (
              <tr key={stage.rank} className={stage.health === "lost" ? "bad" : ""}>
                <th scope="row">
                  {stage.tablet === "" ? null : <TabletMark />}
                  {stage.node}
                </th>
                <td>{stage.layers?.join(":") ?? "none"}</td>
                <td>{pace(stage) || "not yet known"}</td>
                <td>{doing(stage)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Tablets stages={stages} />
      <p>
        <button type="button" onClick={() => void again()}>
          Reconnect
        </button>{" "}
        <span className="quiet">connects all stages anew, those too that were lost and came again.</span>
      </p>
      <p role="status">{said}</p>
      {dashboard ? (
        <p>
          <a href="/dashboard.html">Dashboard</a>{" "}
          <span className="quiet">machines, links, curves and logs of this run.</span>
        </p>
      ) : null}
      <h3>What happened</h3>
      {events.length === 0 ? <p className="quiet">No stage was lost.</p> : null}
      <ol className="happenings">
        {events.map((event) => (
          <li key={event.number} className={event.done === "" ? "bad" : ""}>
            <time dateTime={new Date(event.time * 1000).toISOString()}>
              {new Date(event.time * 1000).toLocaleTimeString()}
            </time>{" "}
            {story(event)}
          </li>
        ))}
      </ol>
    </Panel>
  );
}
