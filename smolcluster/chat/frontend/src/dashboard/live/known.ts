/** Curves that were asked for: what is known of each, and what comes later. Pure. */
import { extended, type Curve } from "../pure/curve";
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

/** What is known after an answer. Of another generation, or asked for from the start, nothing before it counts. */
export function taken(known: Known | undefined, answer: Series, since: number): Known {
  const before = known !== undefined && since > 0 && known.generation === answer.generation ? known.lines : [];
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

/** From which step on to ask; 0: all of it. */
export function since(known: Known | undefined, generation: number, points: number): number {
  if (known === undefined || known.generation !== generation) return 0;
  const longest = Math.max(0, ...known.lines.map((line) => line.curve.at.length));
  return longest > points * MOST_TIMES ? 0 : known.last_step;
}
