/** Lines of charts: what came first, what comes later, and how several share one axis. */

/** Places on the axis, rising, and the values there. */
export interface Curve {
  at: number[];
  values: (number | null)[];
}

export const NOTHING: Curve = { at: [], values: [] };

/** With what came later. From its first place on, what was known before is forgotten: a run that was set back to a
 * checkpoint takes those steps again.
 */
export function extended(known: Curve, more: Curve): Curve {
  const first = more.at[0];
  if (first === undefined) return known;
  const keep = from(known.at, first);
  return { at: [...known.at.slice(0, keep), ...more.at], values: [...known.values.slice(0, keep), ...more.values] };
}

/** With a part of it in place of what was between that part's ends. */
export function within(whole: Curve, part: Curve): Curve {
  const [first, end] = [part.at[0], part.at.at(-1)];
  if (first === undefined || end === undefined) return whole;
  const [before, after] = [from(whole.at, first), from(whole.at, end + 1e-9)];
  return {
    at: [...whole.at.slice(0, before), ...part.at, ...whole.at.slice(after)],
    values: [...whole.values.slice(0, before), ...part.values, ...whole.values.slice(after)],
  };
}

/** The index of the first place at or after `value`. */
export function from(at: readonly number[], value: number): number {
  let [low, high] = [0, at.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The exponential mean of what came so far; weight 0 leaves all as it is. It begins at the first value, unbiased. */
export function smoothed(values: readonly (number | null)[], weight: number): (number | null)[] {
  if (weight <= 0) return [...values];
  let [sum, total] = [0, 0];
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null;
    sum = sum * weight + value * (1 - weight);
    total = total * weight + (1 - weight);
    return sum / total;
  });
}

/** Several lines over the places of them all; null where a line has none. */
export function aligned(curves: readonly Curve[]): { at: number[]; rows: (number | null)[][] } {
  const at = [...new Set(curves.flatMap((curve) => curve.at))].sort((a, b) => a - b);
  const rows = curves.map((curve) => {
    const row = new Array<number | null>(at.length).fill(null);
    let next = 0;
    for (let index = 0; index < at.length && next < curve.at.length; index += 1)
      if (curve.at[next] === at[index]) {
        row[index] = curve.values[next] ?? null;
        next += 1;
      }
    return row;
  });
  return { at, rows };
}

/** Each row with all before it added, as areas on top of each other need it. Gaps take the value before them. */
export function stacked(rows: readonly (readonly (number | null)[])[]): number[][] {
  const sums: number[][] = [];
  for (const row of rows) {
    const under = sums.at(-1);
    let held = row.find((value) => value !== null) ?? 0;
    sums.push(
      row.map((value, index) => {
        held = value ?? held;
        return held + (under?.[index] ?? 0);
      }),
    );
  }
  return sums;
}

/** The last value there is. */
export const last = (curve: Curve): number | null => curve.values.findLast((value) => value !== null) ?? null;

/** The value at a place, or before it. */
export function valueAt(curve: Curve, place: number): number | null {
  for (let index = from(curve.at, place + 1e-9) - 1; index >= 0; index -= 1) {
    const value = curve.values[index];
    if (value !== null && value !== undefined) return value;
  }
  return null;
}
