/** The state of the cluster in words. */
import type { Stage, StageEvent, Stages, Tablet } from "../api/types";

/** A figure with as many digits as say something: 0.25, 7.1, 48, 1210. */
export const brief = (value: number): string => (value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(2))));

export const pace = ({ ms_per_token }: Stage): string =>
  ms_per_token === null ? "" : `${brief(ms_per_token)} ms/token`;

export const layers = ({ layers }: Stage): string => (layers === null ? "no layers" : `layers ${layers.join(":")}`);

/** How a stage does: of a tablet that is not connected, what it is that is waited for. */
export function doing({ health, connection }: Stage): string {
  if (connection === "waiting") return "waited for";
  if (connection === "loading") return "loads its layers";
  return connection === "connected" && health === "serving" ? connection : health;
}

/** What somebody has to do for a tablet to come. */
export const coming = ({ app, node }: Tablet): string =>
  app === "native" ? `Start the app on ${node}` : `Open this on ${node}`;

/** For how long, and why: `It computes layers 4:8, was here before, and is waited for as long as the run lasts: ...`. */
export function patience({ layers, left_s, came, reason }: Tablet): string {
  const before = came ? ", was here before," : "";
  const long = left_s === null ? "as long as the run lasts" : `${Math.ceil(left_s)} s more`;
  return `It is to compute layers ${layers}${before} and is waited for ${long}${reason === "" ? "" : `: ${reason}`}.`;
}

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
