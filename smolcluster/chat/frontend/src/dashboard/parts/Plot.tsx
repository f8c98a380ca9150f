/** One chart. uPlot draws; the legend, the zoom and what is read aloud are the page's own. */
import { memo, useEffect, useId, useMemo, useRef, useState, type ReactNode } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { aligned, smoothed, stacked, type Curve } from "../pure/curve";
import { nearest, type Mark } from "../pure/marks";
import { moment, short, whole } from "../pure/numbers";
import { useColours, type Colours } from "./useColours";

export const COLOURS = 8;
const HEIGHT = 200;
/** Points are drawn as dots where they are so few that a line would hide them. */
const FEW = 24;
const TOGETHER = uPlot.sync("steps");

export interface Line {
  name: string;
  /** Which of the colours; the same node has the same one everywhere. */
  colour: number;
  curve: Curve;
}

export interface PlotProps {
  title: string;
  /** What is counted, short. */
  unit: string;
  lines: Line[];
  /** A value as the legend says it. */
  say?: (value: number) => string;
  /** Areas on top of each other. */
  stack?: boolean;
  fromZero?: boolean;
  /** A scale of powers of ten. */
  log?: boolean;
  smooth?: number;
  /** The axis has seconds since 1970 in place of steps. */
  time?: boolean;
  /** The highest value of the axis, where several charts are to be compared. */
  most?: number;
  marks?: readonly Mark[];
  zoom: [number, number] | null;
  onZoom: (zoom: [number, number] | null) => void;
  hidden: readonly string[];
  onToggle: (name: string) => void;
  empty?: ReactNode;
}

export const Plot = memo(function Plot(props: PlotProps) {
  const { title, unit, lines, say = short, stack = false, smooth = 0, hidden } = props;
  const heading = useId();
  const [at, setAt] = useState<number | null>(null);
  const seen = useMemo(() => lines.filter((line) => line.curve.at.length > 0), [lines]);
  const shown = useMemo(() => seen.filter((line) => !hidden.includes(line.name)), [seen, hidden]);
  const drawn = useMemo(() => dataOf(shown, stack, smooth), [shown, stack, smooth]);
  const place = at === null ? null : (drawn.at[at] ?? null);
  const mark = place === null ? null : nearest(props.marks ?? [], place, drawn.at);
  return (
    <figure className="chart" aria-labelledby={heading}>
      <header>
        <h3 id={heading}>
          {title} <span className="unit">{unit}</span>
        </h3>
        <p className="under">
          {place === null ? "" : props.time ? moment(place) : `step ${whole(place)}`}
          {mark === null ? "" : ` · ${mark.text}`}
        </p>
      </header>
      {seen.length === 0 ? (
        <p className="empty">{props.empty ?? "Nothing was measured yet."}</p>
      ) : (
        <>
          <Canvas {...props} shown={shown} data={drawn} onCursor={setAt} />
          <ul className="legend">
            {seen.map((line) => {
              const row = shown.indexOf(line);
              const values = row < 0 ? [] : (drawn.plain[row] ?? []);
              const value = at === null ? values.findLast((one) => one !== null) : valueNear(values, at);
              return (
                <li key={line.name}>
                  <button type="button" aria-pressed={row >= 0} onClick={() => props.onToggle(line.name)}>
                    <span className={`key key${line.colour % COLOURS}`} aria-hidden="true" />
                    {line.name} {value === undefined || value === null ? null : <b>{say(value)}</b>}
                  </button>
                </li>
              );
            })}
          </ul>
          <p className="offscreen">{shown.map((line, row) => told(line.name, drawn.plain[row] ?? [], say)).join(" ")}</p>
        </>
      )}
    </figure>
  );
});

interface Drawn {
  at: number[];
  /** What the legend says. */
  plain: (number | null)[][];
  /** What is drawn. */
  rows: (number | null)[][];
}

function dataOf(lines: readonly Line[], stack: boolean, smooth: number): Drawn {
  const { at, rows } = aligned(lines.map(({ curve }) => ({ at: curve.at, values: smoothed(curve.values, smooth) })));
  return { at, plain: rows, rows: stack ? stacked(rows) : rows };
}

/** The value there, or the last one before it. */
const valueNear = (values: readonly (number | null)[], at: number) =>
  values.slice(0, at + 1).findLast((value) => value !== null);

/** A line in words, for those who do not see it. */
function told(name: string, values: readonly (number | null)[], say: (value: number) => string): string {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return "";
  let [low, high] = [known[0]!, known[0]!];
  for (const value of known) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return `${name}: now ${say(known.at(-1)!)}, between ${say(low)} and ${say(high)}.`;
}

type CanvasProps = PlotProps & { shown: Line[]; data: Drawn; onCursor: (at: number | null) => void };

function Canvas(props: CanvasProps) {
  const { shown, data, zoom, marks, most } = props;
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const now = useRef(props);
  now.current = props;
  const colours = useColours(holder);
  // What cannot be changed on a drawn chart; with another it is drawn anew.
  const kind = JSON.stringify([shown.map((line) => [line.name, line.colour]), props.stack, props.log, props.fromZero, data.at.length <= FEW]);

  useEffect(() => {
    const place = holder.current;
    if (place === null || colours === null) return;
    const made = new uPlot(options(now, colours, place.clientWidth), uplotData(now.current), place);
    plot.current = made;
    TOGETHER.sub(made);
    const watch = new ResizeObserver(() => {
      if (place.clientWidth > 0 && place.clientWidth !== made.width) made.setSize({ width: place.clientWidth, height: HEIGHT });
    });
    watch.observe(place);
    return () => {
      watch.disconnect();
      TOGETHER.unsub(made);
      made.destroy();
      plot.current = null;
    };
  }, [kind, colours]);

  useEffect(() => plot.current?.setData(uplotData(now.current)), [data, zoom, marks, most]);
  return <div className="plot" ref={holder} aria-hidden="true" onDoubleClick={() => props.onZoom(null)} />;
}

const uplotData = ({ data }: CanvasProps) => [data.at, ...data.rows] as uPlot.AlignedData;

function options(now: { current: CanvasProps }, colours: Colours, width: number): uPlot.Options {
  const { shown, stack, log, fromZero, time, data } = now.current;
  const axis: uPlot.Axis = {
    stroke: colours.quiet,
    grid: { stroke: colours.line, width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
  };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    scales: {
      x: { time: time ?? false, range: (_, low, high) => now.current.zoom ?? widened(low, high) },
      y: {
        distr: log ? 3 : 1,
        range: (_, low, high) => {
          if (log) return uPlot.rangeLog(positive(low), positive(high), 10, false);
          if (stack || fromZero) return [0, (now.current.most ?? Math.max(high, 0)) * 1.06 || 1];
          return uPlot.rangeNum(low ?? 0, high ?? 1, 0.08, true);
        },
      },
    },
    axes: [
      { ...axis, size: 28, ...(time ? { space: 80, incrs: SECONDS, values: daytimes } : { values: wholeSteps }) },
      { ...axis, size: 52, values: (_, splits) => splits.map((value) => (value === null ? "" : short(value))) },
    ],
    series: [
      {},
      ...shown.map((line): uPlot.Series => {
        const colour = colours.lines[line.colour % COLOURS]!;
        return {
          label: line.name,
          stroke: colour,
          width: stack ? 1 : 1.75,
          spanGaps: true,
          points: { show: data.at.length <= FEW || line.curve.at.length <= FEW, size: 5, fill: colour },
          ...(line.colour >= COLOURS ? { dash: [8, 4] } : {}),
          ...(stack ? { fill: faded(colour) } : {}),
        };
      }),
    ],
    // Each area ends where the one under it begins.
    bands: stack ? shown.slice(1).map((_, index): uPlot.Band => ({ series: [index + 2, index + 1] })) : [],
    cursor: {
      sync: { key: TOGETHER.key, setSeries: false },
      drag: { x: true, y: false, setScale: false },
      y: false,
      points: { size: 7 },
    },
    hooks: {
      setCursor: [(plot) => now.current.onCursor(plot.cursor.idx ?? null)],
      setSelect: [
        (plot) => {
          const { left, width: across } = plot.select;
          if (across < 4) return;
          now.current.onZoom([plot.posToVal(left, "x"), plot.posToVal(left + across, "x")]);
          plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        },
      ],
      draw: [(plot) => drawMarks(plot, now.current.marks ?? [], colours)],
    },
  };
}

/** What an axis of time may be divided into. */
const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 86_400];
const daytimes = (_: uPlot, splits: number[]) => splits.map((second) => moment(second).slice(-8));
const wholeSteps = (_: uPlot, splits: number[]) => splits.map((step) => (Number.isInteger(step) ? short(step) : ""));
/** A single step still has an axis. */
const widened = (low: number, high: number): [number, number] => (low < high ? [low, high] : [low - 1, high + 1]);
const positive = (value: number) => (value > 0 ? value : 1e-6);
const faded = (colour: string) => colour.replace(/^rgb\(([^)]+)\)$/, "rgba($1, 0.55)");

/** What happened, as lines with a wedge on top. */
function drawMarks(plot: uPlot, marks: readonly Mark[], colours: Colours): void {
  const { ctx, bbox } = plot;
  ctx.save();
  for (const mark of marks) {
    const x = plot.valToPos(mark.step, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const size = 5 * uPlot.pxRatio;
    ctx.strokeStyle = ctx.fillStyle = colours[mark.tone];
    ctx.lineWidth = uPlot.pxRatio;
    ctx.setLineDash([4 * uPlot.pxRatio, 3 * uPlot.pxRatio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.beginPath();
    ctx.moveTo(x - size, bbox.top);
    ctx.lineTo(x + size, bbox.top);
    ctx.lineTo(x, bbox.top + size * 1.4);
    ctx.fill();
  }
  ctx.restore();
}
