/** The strip: the computers that hold the model, in the order in which a token passes them. */
import { useState } from "react";
import type { Server } from "../state/useServer";
import { doing, layers, pace, state } from "../state/words";
import { Cluster } from "./Cluster";
import { TabletMark } from "./TabletMark";

export function Stages({ server }: { server: Server }) {
  const [open, setOpen] = useState(false);
  const { stages } = server;
  const bad = stages === null || (stages !== undefined && stages.state !== "ready");
  return (
    <>
      <div className={bad ? "strip bad" : "strip"}>
        {/* Many stages scroll, also by keyboard. */}
        <ul aria-label="Stages of the model" tabIndex={0}>
          {(stages?.stages ?? []).map((stage) => (
            <li key={stage.rank} className={`stage ${stage.health}`}>
              {stage.tablet === "" ? <span className="dot" aria-hidden="true" /> : <TabletMark />}
              <strong>{stage.node}</strong> {layers(stage)} {stage.health === "serving" ? pace(stage) : doing(stage)}
            </li>
          ))}
        </ul>
        <p className="state" role="status">
          {state(stages)}
        </p>
        <button type="button" className="small" onClick={() => setOpen(true)} aria-haspopup="dialog">
          Details
        </button>
      </div>
      {open ? <Cluster server={server} onClose={() => setOpen(false)} /> : null}
    </>
  );
}
