/** What happened to the cluster, by comparing what it said of itself with what it said before. */
import type { Health } from "../api/types";

export interface Happening {
  time: number;
  text: string;
  bad: boolean;
}

export const MOST = 50;

/** `null`: the server could not be reached. */
export function compare(before: Health | null | undefined, now: Health | null, time: number): Happening[] {
  const told: Happening[] = [];
  const tell = (text: string, bad: boolean) => told.push({ time, text, bad });
  if (before === undefined) return told;
  if (now === null) {
    if (before !== null) tell("The server cannot be reached", true);
    return told;
  }
  if (before === null) tell("The server is there again", false);
  for (const stage of now.stages ?? []) {
    const old = before?.stages?.find((one) => one.rank === stage.rank);
    const what = `${stage.node} (layers ${stage.layers})`;
    if (old?.alive && !stage.alive) tell(`${what} was lost`, true);
    if (old && !old.alive && stage.alive) tell(`${what} came again`, false);
    if (old && (old.layers !== stage.layers || old.node !== stage.node)) {
      tell(`Layers moved: ${old.node} ${old.layers} → ${stage.node} ${stage.layers}`, false);
    }
  }
  if (before && before.state !== now.state) {
    tell(now.state === "ready" ? "The model is served again" : `Not served: ${now.reason || now.state}`, now.state !== "ready");
  } else if (before && before.epoch != null && now.epoch != null && now.epoch > before.epoch) {
    tell("The stages were connected anew", false);
  }
  return told;
}
