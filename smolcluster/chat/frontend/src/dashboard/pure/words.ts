/** States in words, and how they are to be taken. */
import type { NodeNow, State } from "../api";
import type { NodeTone } from "./scene";

export const layersOf = ([start, stop]: readonly [number, number]) => `layers ${start}:${stop}`;

const NODE_TONES: Partial<Record<NodeNow["state"], NodeTone>> = {
  running: "running",
  completed: "running",
  restarting: "warn",
  lost: "bad",
  failed: "bad",
};

/** Slow ones that run are to be seen too. */
export function toneOfNode(node: NodeNow): NodeTone {
  const tone = NODE_TONES[node.state] ?? "quiet";
  return tone === "running" && (node.throttled || isSlow(node)) ? "warn" : tone;
}

const isSlow = ({ remark, why }: NodeNow) => Boolean(why) || /^(slowest|no step)/.test(remark ?? "");

export function wordOf(node: NodeNow): string {
  const state = node.state === "unknown" ? "no word yet" : node.state;
  const heat = node.temperature_c === null || node.temperature_c === undefined ? "" : ` ${node.temperature_c.toFixed(0)} °C`;
  if (node.state !== "running") return state;
  if (node.throttled) return `throttled${heat}`;
  return node.remark || state;
}

export const RUN_TONES: Record<State["state"], "good" | "quiet" | "warn" | "bad"> = {
  starting: "quiet",
  running: "good",
  restarting: "warn",
  completed: "good",
  failed: "bad",
  stopped: "warn",
  lost: "bad",
  gone: "bad",
};

export const EVENT_WORDS: Record<string, string> = {
  join: "Joined",
  leave: "Left",
  restart: "Restart",
  checkpoint: "Checkpoint",
  straggler: "Straggler",
  fault: "Fault",
  warning: "Warning",
  error: "Error",
  stop: "Stopping",
  end: "End",
};
