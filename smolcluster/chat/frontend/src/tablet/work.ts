/** What the page and its worker say to each other. */
import type { Assign, Hidden } from "./messages";

/** `turn`: the connection that it is of; an answer to an earlier one is of no use. */
export type Order =
  | { type: "load"; file: Uint8Array<ArrayBuffer>; sha256: string; assign: Assign; threads: number }
  | { type: "open"; turn: number; session: bigint; capacity: number }
  | { type: "forward"; turn: number; hidden: Hidden }
  | { type: "forget"; turn: number; session: bigint }
  | { type: "clear" };

export type Told =
  | { type: "loaded"; how: string; gpu_error: string }
  | { type: "unloadable"; reason: string }
  | { type: "answer"; turn: number; message: Uint8Array<ArrayBuffer>; ms: number; tokens: number; position: number }
  | { type: "held"; sessions: number; bytes: number };
