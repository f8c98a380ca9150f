/** Curves that were asked for: what is known of each, and what comes later. Pure. */
import { extended, within, type Curve } from "../pure/curve";
import type { Series } from "../api";

export interface Known {
  unit: string;
  generation: number;
  last_step: number;
  lines: KnownLine[];
}

export interface KnownLine {
  label: string;
  node: string | null;
  curve: Curve;
  /** When each step was, seconds since 1970. */
  times: number[];
}

/** With so many points more than it was asked for it is asked for anew, thinned. */
const MOST_TIMES = 3;

/** What is asked for: the steps after the first, up to the second; null: all that come. */
export type Asked = readonly [number, number | null];
export const ALL: Asked = [0, null];

/** The largest step that an answer can have. */
const MOST_STEPS = Number.MAX_SAFE_INTEGER;

/** What a stretch of a chart has in it; null is all of it. */
export function asked(zoom: readonly [number, number] | null): Asked {
  if (zoom === null) return ALL;
  const [low, high] = zoom.map((step) => Math.min(MOST_STEPS, Math.max(0, step))) as [number, number];
  return [Math.max(0, Math.ceil(low) - 1), Math.floor(high)];
}

/** What is known after an answer. Of another generation, or asked for from its start, nothing before it counts. */
export function taken(known: Known | undefined, answer: Series, since: number, start = 0): Known {
  const before = known !== undefined && since > start && known.generation === answer.generation ? known.lines : [];
  const labels = [...new Set([...before.map((line) => line.label), ...answer.lines.map((line) => line.label)])];
  return {
    unit: answer.unit,
    generation: answer.generation,
    last_step: answer.last_step,
    lines: labels.map((label) => {
      const old = before.find((line) => line.label === label);
      const more = answer.lines.find((line) => line.label === label);
      if (more === undefined) return old!;
      const curve = extended(old?.curve ?? { at: [], values: [] }, { at: more.steps, values: more.values });
      const times = extended(
        { at: old?.curve.at ?? [], values: old?.times ?? [] },
        { at: more.steps, values: more.times },
      ).values as number[];
      return { label, node: more.node ?? null, curve, times };
    }),
  };
}

/** From which step on to ask; `start`: all of it. */
export function since(known: Known | undefined, generation: number, points: number, start = 0): number {
  if (known === undefined || known.generation !== generation) return start;
  const longest = Math.max(0, ...known.lines.map((line) => line.curve.at.length));
  return longest > points * MOST_TIMES ? start : known.last_step;
}

/** Whether nothing can come any more of what was asked for. */
export const complete = (known: Known | undefined, generation: number, [, stop]: Asked): known is Known =>
  known !== undefined && known.generation === generation && stop !== null && known.last_step >= stop;

/** The lines with what is known of a stretch of them more closely; around it they stay as they are. */
export function closer(lines: readonly KnownLine[], stretch: readonly KnownLine[]): readonly KnownLine[] {
  return lines.map((line) => {
    const found = stretch.find((one) => one.label === line.label);
    if (found === undefined || found.curve.at.length === 0) return line;
    const curve = within(line.curve, found.curve);
    return { ...line, curve, times: within({ at: line.curve.at, values: line.times }, { at: found.curve.at, values: found.times }).values as number[] };
  });
}
