/** A figure's curves, asked for as long as somebody looks at them; the stretch that is zoomed into more closely. */
import { useEffect, useMemo } from "react";
import type { Grouping, SeriesName } from "../api";
import type { View } from "../pure/view";
import { curveKey, type Board, type Shown } from "./board";
import { ALL, asked, closer, type KnownLine } from "./known";

const NONE: readonly KnownLine[] = [];

export function useCurves(board: Board, shown: Shown, name: SeriesName, by: Grouping, zoom: View["zoom"] = null): readonly KnownLine[] {
  const all = curveKey(name, by, ALL);
  const near = zoom === null ? null : curveKey(name, by, asked(zoom));
  useEffect(() => board.want(all), [board, all]);
  useEffect(() => (near === null ? undefined : board.want(near)), [board, near]);
  const known = shown.curves.get(all);
  const stretch = near === null ? undefined : shown.curves.get(near);
  return useMemo(() => {
    const lines = known?.lines ?? NONE;
    // What was read before the run was set back is of steps that it has taken again.
    return stretch === undefined || stretch.generation !== known?.generation ? lines : closer(lines, stretch.lines);
  }, [known, stretch]);
}
