/** All at a glance: the picture, the machines, the two curves people look at, and what happened last. */
import type { Run } from "../api";
import type { Board, Shown } from "../live/board";
import type { SetView } from "../live/useView";
import { viewHash, type View } from "../pure/view";
import { LossChart, ServingChart, SpeedChart, useMarks } from "./figures";
import { EventList } from "./Events";
import { Nodes } from "./Nodes";
import { Topology } from "./Topology";

const LAST = 5;

interface Props {
  board: Board;
  shown: Shown;
  run: Run;
  view: View;
  setView: SetView;
}

export function Overview({ board, shown, run, view, setView }: Props) {
  const marks = useMarks(board, shown);
  const common = { board, shown, run, view, setView, marks };
  const { state, events } = shown;
  return (
    <>
      <div className="split">
        <section className="card" aria-labelledby="topology">
          <header>
            <h2 id="topology">{run.kind === "serving" ? "Stages" : "Topology"}</h2>
            <span className="count">{[run.shape?.toLowerCase(), run.transport, run.wire].filter((part) => part).join(" · ")}</span>
          </header>
          <Topology run={run} state={state} />
        </section>
        <section className="card" aria-labelledby="machines">
          <header>
            <h2 id="machines">Machines</h2>
          </header>
          <Nodes run={run} state={state} />
        </section>
      </div>
      <div className="split even">
        {run.kind === "serving" ? (
          <>
            <section className="card">
              <ServingChart {...common} figure="stages" />
            </section>
            <section className="card">
              <ServingChart {...common} figure="speed" />
            </section>
          </>
        ) : (
          <>
            <section className="card">
              <LossChart {...common} />
            </section>
            <section className="card">
              <SpeedChart {...common} />
            </section>
          </>
        )}
      </div>
      <section className="card" aria-labelledby="lately">
        <header>
          <h2 id="lately">Lately</h2>
          {events.length > LAST ? <a href={viewHash({ ...view, tab: "events" })}>All {events.length} events</a> : null}
        </header>
        <EventList events={events.slice(-LAST)} />
      </section>
    </>
  );
}
