/** The strip: the computers that hold the model, in the order in which a token passes them. */
import { useState } from "react";
import { reconnect } from "../api/http";
import type { Health, Stage } from "../api/types";
import type { Server } from "../state/useServer";
import { brief } from "../state/words";
import { Panel } from "./Panel";

export function Stages({ server }: { server: Server }) {
  const [open, setOpen] = useState(false);
  const { health } = server;
  const bad = health === null || (health !== undefined && health.state !== "ready");
  return (
    <>
      <div className={bad ? "strip bad" : "strip"}>
        {/* Many stages scroll, also by keyboard. */}
        <ul aria-label="Stages of the model" tabIndex={0}>
          {(health?.stages ?? []).map((stage) => (
            <li key={stage.rank} className={stage.alive ? "stage" : "stage lost"}>
              <span className="dot" aria-hidden="true" />
              <strong>{stage.node}</strong> <span>layers {stage.layers}</span>{" "}
              <span>{stage.alive ? pace(stage) : "lost"}</span>
            </li>
          ))}
        </ul>
        <p className="state" role="status">
          {words(health)}
        </p>
        <button type="button" className="small" onClick={() => setOpen(true)} aria-haspopup="dialog">
          Details
        </button>
      </div>
      {open ? <StagesPanel server={server} onClose={() => setOpen(false)} /> : null}
    </>
  );
}

export const pace = (stage: Stage) => (stage.ms_per_step > 0 ? `${brief(stage.ms_per_step)} ms/token` : "idle");

/** Nothing to say when all is well. */
export function words(health: Health | null | undefined): string {
  if (health === undefined) return "";
  if (health === null) return "The server cannot be reached. Trying again …";
  if (health.state === "ready") return health.reason ?? "";
  const state = { starting: "The model is starting", lost: "The model is not served", closed: "The server is stopped" };
  return health.reason ? `${state[health.state]}: ${health.reason}` : state[health.state];
}

function StagesPanel({ server, onClose }: { server: Server; onClose: () => void }) {
  const [said, setSaid] = useState("");
  const { config, health, happenings } = server;
  const again = async () => {
    setSaid("Connecting all stages anew …");
    try {
      await reconnect();
      setSaid("All stages are connected.");
    } catch (error) {
      setSaid(`${(error as Error).message}. Start it again, then press Reconnect.`);
    }
    server.look();
  };
  return (
    <Panel title="The cluster" side="right" onClose={onClose}>
      {config ? (
        <p>
          <strong>{config.model}</strong>: {(config.params / 1e6).toLocaleString("en", { maximumFractionDigits: 0 })} million
          parameters in {config.layers} layers, {config.precision}, a context of {config.limits.context.toLocaleString("en")}{" "}
          tokens. {config.source}, licence {config.licence}.
        </p>
      ) : null}
      <p>{words(health) || "All stages are alive."}</p>
      <div className="wide" tabIndex={0} role="region" aria-label="Stages">
        <table>
          <thead>
            <tr>
              {["Node", "Layers", "Pace", "Chats", "Caches", "Memory"].map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {(health?.stages ?? []).map((stage) => (
              <tr key={stage.rank} className={stage.alive ? "" : "lost"}>
                <th scope="row">{stage.node}</th>
                <td>{stage.layers}</td>
                <td>{stage.alive ? pace(stage) : "lost"}</td>
                <td>{stage.alive ? stage.sessions : ""}</td>
                <td>{stage.alive ? `${(stage.cache_bytes / 1e6).toFixed(1)} MB` : ""}</td>
                <td>{stage.alive ? `${stage.rss_mb.toFixed(0)} MB` : ""}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p>
        <button type="button" onClick={() => void again()}>
          Reconnect
        </button>{" "}
        <span className="quiet">connects all stages anew, those too that were lost and came again.</span>
      </p>
      <p role="status">{said}</p>
      <h3>What happened</h3>
      {happenings.length === 0 ? <p className="quiet">Nothing since this page was opened.</p> : null}
      <ol className="happenings">
        {happenings.map((one, index) => (
          <li key={happenings.length - index} className={one.bad ? "bad" : ""}>
            <time dateTime={new Date(one.time).toISOString()}>{new Date(one.time).toLocaleTimeString()}</time> {one.text}
          </li>
        ))}
      </ol>
    </Panel>
  );
}
