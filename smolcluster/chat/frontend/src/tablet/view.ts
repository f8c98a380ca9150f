/** What the page shows. */
import type { Awake } from "./awake";

/** `no-key`, `refused`, `replaced` and `failed` wait for a person; the others go on by themselves. */
export type Phase =
  | "no-key" | "refused" | "replaced" | "failed"
  | "connecting" | "lost" | "waiting" | "downloading" | "loading" | "ready";

export interface View {
  phase: Phase;
  /** Why it is so, where there is more to say. */
  reason: string;
  /** The cluster's machine that answered. */
  cluster: string;
  model: string;
  layers: string;
  /** Bytes of the download; `total` 0: not known yet. */
  bytes: number;
  total: number;
  /** How the layers are computed, and why not by WebGPU although there is one. */
  how: string;
  gpuError: string;
  sessions: number;
  cacheBytes: number;
  /** Since the page was opened. */
  tokens: number;
  /** Over the last tokens of an answer; null while there were none. */
  tokensPerS: number | null;
  msPerToken: number | null;
  /** When the last tokens were computed, in ms of the page's clock. */
  workedAt: number | null;
  awake: Awake;
  events: { at: Date; text: string }[];
}

export const FIRST: View = {
  phase: "connecting", reason: "", cluster: "", model: "", layers: "", bytes: 0, total: 0, how: "", gpuError: "",
  sessions: 0, cacheBytes: 0, tokens: 0, tokensPerS: null, msPerToken: null, workedAt: null, awake: "off", events: [],
};

const MOST_EVENTS = 50;

/** With one more event, newest first. */
export function noted(view: View, text: string, at = new Date()): View {
  if (view.events[0]?.text === text) return view;
  return { ...view, events: [{ at, text }, ...view.events].slice(0, MOST_EVENTS) };
}
