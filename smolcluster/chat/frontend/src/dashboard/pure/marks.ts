/** What happened in a run, as marks on its charts. */
import { from } from "./curve";

export type Tone = "good" | "quiet" | "warn" | "bad";

export interface Mark {
  step: number;
  tone: Tone;
  text: string;
}

/** Events that are bad for the run, that may be, and that are good. */
export const toneOf = (kind: string): Tone =>
  ({ error: "bad", fault: "bad", leave: "bad", straggler: "warn", warning: "warn", restart: "warn", join: "good", checkpoint: "good" } as Record<string, Tone>)[kind] ?? "quiet";

/** The step that was under way at a moment, from the steps' times; null before the first. */
export function stepAt(time: number, times: readonly number[], steps: readonly number[]): number | null {
  const next = from(times, time);
  return steps[Math.min(next, steps.length - 1)] ?? null;
}

/** The mark that a place on the axis is at, within a hundredth of what is shown. */
export function nearest(marks: readonly Mark[], place: number, at: readonly number[]): Mark | null {
  const reach = Math.max(0.5, ((at.at(-1) ?? 0) - (at[0] ?? 0)) / 100);
  const near = marks.filter((mark) => Math.abs(mark.step - place) <= reach);
  return near.sort((a, b) => Math.abs(a.step - place) - Math.abs(b.step - place))[0] ?? null;
}
