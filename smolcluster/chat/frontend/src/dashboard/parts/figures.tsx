/** The charts of a run, each with the curves it asks for. */
import { useMemo } from "react";
import type { Grouping, Run, SeriesName } from "../api";
import type { Board, Shown } from "../live/board";
import type { KnownLine } from "../live/known";
import { useCurves } from "../live/useCurves";
import type { SetView } from "../live/useView";
import { bytes, mb, mbps, ms, short } from "../pure/numbers";
import { stepAt, toneOf, type Mark } from "../pure/marks";
import type { View } from "../pure/view";
import { EVENT_WORDS } from "../pure/words";
import { PARTS } from "./Nodes";
import { Plot, type Line } from "./Plot";

export interface FigureProps {
  board: Board;
  shown: Shown;
  run: Run;
  view: View;
  setView: SetView;
  marks: readonly Mark[];
}

/** Events as marks on the axis of steps: by their own step, else by the time of the steps around them. */
export function useMarks(board: Board, shown: Shown): Mark[] {
  const loss = useCurves(board, shown, "loss", "run");
  const { events } = shown;
  return useMemo(() => {
    const { curve, times } = loss[0] ?? { curve: { at: [] }, times: [] };
    return events.flatMap((event) => {
      const step = event.step ?? (event.time === null ? null : stepAt(event.time, times, curve.at));
      if (step === null) return [];
      return [{ step, tone: toneOf(event.kind), text: `${EVENT_WORDS[event.kind] ?? event.kind}, ${event.node}: ${event.text}` }];
    });
  }, [events, loss]);
}

/** What all charts share: the zoom, what is hidden, the marks. */
function common({ view, setView, marks }: FigureProps) {
  return {
    zoom: view.zoom,
    onZoom: (zoom: View["zoom"]) => setView({ zoom }),
    hidden: view.hidden,
    onToggle: (name: string) =>
      setView({ hidden: view.hidden.includes(name) ? view.hidden.filter((one) => one !== name) : [...view.hidden, name] }),
    smooth: view.smooth,
    marks,
  };
}

export function LossChart(props: FigureProps) {
  const loss = useCurves(props.board, props.shown, "loss", "run", props.view.zoom);
  const validation = useCurves(props.board, props.shown, "val_loss", "run", props.view.zoom);
  const lines = useMemo(
    () => [...loss.map((line) => ({ name: "training", colour: 0, curve: line.curve })), ...validation.map((line) => ({ name: "validation", colour: 1, curve: line.curve }))],
    [loss, validation],
  );
  return <Plot {...common(props)} title="Loss" unit="" lines={lines} say={(value) => value.toFixed(4)} log={props.view.log} empty="No step was taken yet." />;
}

export function SpeedChart(props: FigureProps) {
  const all = useCurves(props.board, props.shown, "tokens_per_s", "run", props.view.zoom);
  const each = useCurves(props.board, props.shown, "tokens_per_s", "node", props.view.zoom);
  const lines = useMemo(
    () => [...all.map((line) => ({ name: "together", colour: 7, curve: line.curve })), ...(each.length > 1 ? byNode(each, props.run) : [])],
    [all, each, props.run],
  );
  return <Plot {...common(props)} title="Speed" unit={`${props.run.counts}/s`} lines={lines} fromZero />;
}

/** A machine has the same colour in every chart. */
function byNode(found: readonly KnownLine[], run: Run): Line[] {
  return found.map((line, index) => {
    const place = (run.nodes ?? []).findIndex((node) => node.name === line.node);
    return { name: line.label, colour: place < 0 ? index : place, curve: line.curve };
  });
}

interface PerNodeProps extends FigureProps {
  name: SeriesName;
  by?: Grouping;
  title: string;
  unit: string;
  say?: (value: number) => string;
  fromZero?: boolean;
  /** Not shown at all while there is nothing. */
  rare?: boolean;
}

export function PerNodeChart({ name, by = "node", title, unit, say, fromZero = true, rare = false, ...props }: PerNodeProps) {
  // A served model takes no steps: its axis is time, which the charts of steps cannot share.
  const shared = props.run.kind === "serving" ? { ...common(props), ...timed } : common(props);
  const found = useCurves(props.board, props.shown, name, by, shared.zoom);
  const lines = useMemo(() => byNode(found, props.run), [found, props.run]);
  if (rare && found.every((line) => line.curve.values.every((value) => !value))) return null;
  return (
    <div className="card">
      <Plot {...shared} title={title} unit={unit} lines={lines} fromZero={fromZero} {...(say ? { say } : {})} />
    </div>
  );
}

/** What the steps of each machine go into: one chart for each, all with the same height of axis. */
export function SplitCharts(props: FigureProps) {
  const { board, shown, view } = props;
  const found = [
    useCurves(board, shown, "compute_ms", "node", view.zoom),
    useCurves(board, shown, "communication_ms", "node", view.zoom),
    useCurves(board, shown, "waiting_ms", "node", view.zoom),
    useCurves(board, shown, "data_ms", "node", view.zoom),
  ];
  const nodes = found[0]!.map((line) => line.label);
  const most = useMemo(() => highest(found, view.zoom), [...found, view.zoom]);
  return nodes.map((label) => <SplitChart key={label} {...props} label={label} found={found} most={most} />);
}

function SplitChart({ label, found, most, ...props }: FigureProps & { label: string; found: readonly (readonly KnownLine[])[]; most: number }) {
  const lines = useMemo(
    () =>
      PARTS.flatMap(([key, name, colour], index) => {
        const line = found[index]!.find((one) => one.label === label);
        // Samples are rarely waited for: then that is no part of the picture.
        if (line === undefined || (key === "data_ms" && line.curve.values.every((value) => (value ?? 0) < 0.01))) return [];
        return [{ name, colour, curve: line.curve }];
      }),
    [...found, label],
  );
  return (
    <div className="card">
      <Plot {...common(props)} title={`Step time of ${label}`} unit="ms" lines={lines} say={ms} stack most={most} />
    </div>
  );
}

/** The longest step of any machine in what is shown. */
function highest(found: readonly (readonly KnownLine[])[], zoom: View["zoom"]): number {
  const sums = new Map<string, number>();
  for (const lines of found)
    for (const { label, curve } of lines)
      curve.at.forEach((step, index) => {
        if (zoom !== null && (step < zoom[0] || step > zoom[1])) return;
        const key = `${label} ${step}`;
        sums.set(key, (sums.get(key) ?? 0) + (curve.values[index] ?? 0));
      });
  let most = 0;
  for (const sum of sums.values()) most = Math.max(most, sum);
  return most;
}

/** Over time in place of steps. */
const timed = { zoom: null, onZoom: () => undefined, marks: [], time: true };

/** Of a served model, since the page is open. */
export function ServingChart({ figure, ...props }: FigureProps & { figure: "stages" | "speed" | "sessions" }) {
  const { history, state } = props.shown;
  const stages = state?.serving?.stages ?? [];
  const perStage = (name: string) => stages.map((stage, index) => ({ name: stage.node, colour: index, curve: history.curve(`${name} ${stage.node}`) }));
  const empty = state?.over ? "It is drawn while the model is served and this page is open; no file keeps it." : "It begins with the first request.";
  const shared = { ...common(props), ...timed, fromZero: true, empty };
  if (figure === "stages") return <Plot {...shared} title="Stages" unit="ms per token" lines={perStage("ms_per_token")} say={ms} />;
  if (figure === "speed")
    return <Plot {...shared} title="Speed" unit="tokens/s" lines={[{ name: "together", colour: 7, curve: history.curve("tokens_per_s") }]} say={short} />;
  return (
    <Plot
      {...shared}
      title="Requests"
      unit=""
      lines={[
        { name: "being answered", colour: 0, curve: history.curve("active") },
        { name: "waiting", colour: 1, curve: history.curve("waiting") },
      ]}
    />
  );
}

export const SAY = { bytes, mb, mbps, ms, short };
