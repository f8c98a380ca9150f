/** The state of the cluster in words. */
import type { Stage, StageEvent, Stages } from "../api/types";

/** A figure with as many digits as say something: 0.25, 7.1, 48, 1210. */
export const brief = (value: number): string => (value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(2))));

export const pace = ({ ms_per_token }: Stage): string =>
  ms_per_token === null ? "" : `${brief(ms_per_token)} ms/token`;

export const layers = ({ layers }: Stage): string => (layers === null ? "no layers" : `layers ${layers.join(":")}`);

/** Nothing to say when all is well. */
export function state(stages: Stages | null | undefined): string {
  if (stages === undefined) return "";
  if (stages === null) return "The server cannot be reached. Trying again …";
  const words = {
    starting: "The model is starting",
    ready: "",
    lost: "The model is not served now",
    closed: "The server is stopped",
  }[stages.state];
  return [words, stages.reason].filter((part) => part !== "").join(": ");
}

/** Who was lost, why, what was done, and how long it took. */
export function story({ nodes, reason, done, seconds }: StageEvent): string {
  const who = nodes.length > 0 ? `${nodes.join(" and ")} was lost` : "The stages were disconnected";
  const end = done === "" ? "not served since" : `${done}${seconds === null ? "" : ` after ${brief(seconds)} s`}`;
  return `${who}${reason === "" ? "" : ` (${reason})`}; ${end}.`;
}
