/** How a served model did since the page is open: no file keeps that second by second. */
import type { State } from "../api";
import type { Curve } from "../pure/curve";

const MOST = 1200;

export class History {
  private readonly kept = new Map<string, Curve>();
  private lastTime = -Infinity;

  /** Add what was heard. The same moment twice, after a connection broke, is one. */
  take(state: State): void {
    const { serving, time } = state;
    // Of one that is over there is no more to hear.
    if (serving === null || serving === undefined || state.over || time <= this.lastTime) return;
    this.lastTime = time;
    this.add("tokens_per_s", time, serving.tokens_per_s ?? null);
    this.add("active", time, serving.active ?? null);
    this.add("waiting", time, serving.waiting ?? null);
    for (const stage of serving.stages ?? []) this.add(`ms_per_token ${stage.node}`, time, stage.ms_per_token ?? null);
  }

  curve(name: string): Curve {
    return this.kept.get(name) ?? { at: [], values: [] };
  }

  private add(name: string, time: number, value: number | null): void {
    const { at, values } = this.curve(name);
    this.kept.set(name, { at: [...at, time].slice(-MOST), values: [...values, value].slice(-MOST) });
  }
}
