/** A figure's curves, asked for as long as somebody looks at them. */
import { useEffect, useMemo } from "react";
import type { Grouping, SeriesName } from "../api";
import { curveKey, type Board, type Shown } from "./board";
import type { KnownLine } from "./known";

const NONE: readonly KnownLine[] = [];

export function useCurves(board: Board, shown: Shown, name: SeriesName, by: Grouping): readonly KnownLine[] {
  useEffect(() => board.want(name, by), [board, name, by]);
  const known = shown.curves.get(curveKey(name, by));
  return useMemo(() => known?.lines ?? NONE, [known]);
}
