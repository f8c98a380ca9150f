/** All curves, and how they are shown: their stretch of steps, smoothing, scale. */
import { useId } from "react";
import type { Run } from "../api";
import type { Board, Shown } from "../live/board";
import type { SetView } from "../live/useView";
import { FIRST, type View } from "../pure/view";
import { type FigureProps, LossChart, PerNodeChart, SAY, ServingChart, SpeedChart, SplitCharts, useMarks } from "./figures";

interface Props {
  board: Board;
  shown: Shown;
  run: Run;
  view: View;
  setView: SetView;
}

export function Charts({ board, shown, run, view, setView }: Props) {
  const marks = useMarks(board, shown);
  const common = { board, shown, run, view, setView, marks };
  if (run.kind === "serving")
    return (
      <div className="charts">
        <h2 className="offscreen">Charts</h2>
        {(["stages", "speed", "sessions"] as const).map((figure) => (
          <div className="card" key={figure}>
            <ServingChart {...common} figure={figure} />
          </div>
        ))}
        <PerNodeChart {...common} name="memory_mb" title="Memory" unit="MB" say={SAY.mb} />
        <MachineCharts {...common} />
        <p className="quiet">Stages, speed and requests are drawn from when this page was opened, the others from the run's files.</p>
      </div>
    );
  return (
    <>
      <h2 className="offscreen">Charts</h2>
      <Tools view={view} setView={setView} last={shown.state?.step ?? 0} />
      <div className="charts">
        <div className="card">
          <LossChart {...common} />
        </div>
        <div className="card">
          <SpeedChart {...common} />
        </div>
        <SplitCharts {...common} />
        <PerNodeChart {...common} name="bytes_sent" title="Sent in a step" unit="bytes" say={SAY.bytes} />
        <PerNodeChart {...common} name="bytes_received" title="Received in a step" unit="bytes" say={SAY.bytes} />
        <PerNodeChart {...common} name="memory_mb" title="Memory" unit="MB" say={SAY.mb} />
        <PerNodeChart {...common} name="staleness" title="Staleness" unit="steps" />
        <MachineCharts {...common} />
        <PerNodeChart {...common} name="grad_norm" by="run" title="Gradient norm" unit="" rare />
        <PerNodeChart {...common} name="lr" by="run" title="Learning rate" unit="" rare />
      </div>
    </>
  );
}

/** What was seen of links and machines, of whatever run. */
function MachineCharts(props: FigureProps) {
  return (
    <>
      <PerNodeChart {...props} name="link_mbps" by="rank" title="Links" unit="Mbit/s" say={SAY.mbps} rare />
      <PerNodeChart {...props} name="link_rtt_ms" by="rank" title="Round trips" unit="ms" say={SAY.ms} rare />
      <PerNodeChart {...props} name="cpu_percent" title="Processor" unit="%" rare />
      <PerNodeChart {...props} name="temperature_c" title="Temperature" unit="°C" fromZero={false} rare />
    </>
  );
}

/** The last so many steps; 0 is all of them. */
const STRETCHES = [0, 100, 1000, 10_000];

/** Dragging over a chart zooms too; these are for fingers and keyboards. */
function Tools({ view, setView, last }: { view: View; setView: SetView; last: number }) {
  const [stretch, smooth] = [useId(), useId()];
  return (
    <div className="tools" role="group" aria-label="How charts are shown">
      <div>
        <label htmlFor={stretch}>Steps</label>
        <select
          id={stretch}
          value={view.zoom === null ? "0" : "zoom"}
          onChange={(event) => {
            const steps = Number(event.target.value);
            setView({ zoom: steps > 0 ? [Math.max(0, last - steps), last] : null });
          }}
        >
          {view.zoom === null ? null : (
            <option value="zoom">
              {Math.round(view.zoom[0])} to {Math.round(view.zoom[1])}
            </option>
          )}
          {STRETCHES.map((steps) => (
            <option key={steps} value={steps}>
              {steps === 0 ? "all" : `the last ${steps.toLocaleString("en")}`}
            </option>
          ))}
        </select>
      </div>
      <div>
        <label htmlFor={smooth}>Smoothing {view.smooth === 0 ? "off" : view.smooth.toFixed(2)}</label>
        <input
          id={smooth}
          type="range"
          min={0}
          max={0.98}
          step={0.02}
          value={view.smooth}
          onChange={(event) => setView({ smooth: Number(event.target.value) })}
        />
      </div>
      <button type="button" aria-pressed={view.log} onClick={() => setView({ log: !view.log })}>
        Loss on a log scale
      </button>
      <button
        type="button"
        disabled={view.zoom === null && view.smooth === 0 && !view.log && view.hidden.length === 0}
        onClick={() => setView({ zoom: FIRST.zoom, smooth: FIRST.smooth, log: FIRST.log, hidden: FIRST.hidden })}
      >
        Reset
      </button>
      <span className="quiet hint">Drag over a chart to zoom, double-click to see all.</span>
    </div>
  );
}
