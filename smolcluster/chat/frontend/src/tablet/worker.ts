/** Computes the layers, so that the page itself always has time to answer signs of life. Orders are done one by one. */
import { sha256 } from "@noble/hashes/sha2.js";
import { hex } from "./greeting";
import { narrowed } from "./half";
import { Code, encode, Kind, type Assign, type Hidden } from "./messages";
import { load, type Past } from "./onnx";
import { Refusal, Sessions } from "./sessions";
import type { Order, Told } from "./work";

let sessions: Sessions<Past> | null = null;
let assigned: Assign | null = null;
let done: Promise<void> = Promise.resolve();

const tell = (told: Told, moved: Transferable[] = []) => postMessage(told, { transfer: moved });

onmessage = ({ data }: MessageEvent<Order>) => {
  done = done.then(() => execute(data));
};

async function execute(order: Order): Promise<void> {
  if (order.type === "load") return loaded(order);
  if (sessions === null) return;
  if (order.type === "open") sessions.open(order.session, order.capacity);
  else if (order.type === "forget") sessions.forget(order.session);
  else if (order.type === "clear") sessions.clear();
  else await forward(sessions, order.turn, order.hidden);
  tell({ type: "held", sessions: sessions.count, bytes: sessions.bytes });
}

async function loaded({ file, sha256: expected, assign, threads }: Extract<Order, { type: "load" }>): Promise<void> {
  try {
    if (hex(sha256(file)) !== expected) throw new Error("the file was damaged on its way");
    const { layers, how, gpu_error } = await load(file, assign.width, threads);
    [sessions, assigned] = [new Sessions(layers, assign), assign];
    tell({ type: "loaded", how, gpu_error });
  } catch (error) {
    tell({ type: "unloadable", reason: error instanceof Error ? error.message : String(error) });
  }
}

async function forward(all: Sessions<Past>, turn: number, hidden: Hidden): Promise<void> {
  const { request, session, position, tokens } = hidden;
  const began = performance.now();
  let message: Uint8Array<ArrayBuffer>;
  try {
    const { out, width } = await all.forward(hidden);
    const half = assigned?.dtype === "fp16";
    const numbers = half ? narrowed(out) : out;
    const values = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
    message = encode({ kind: Kind.RESULT, request, session, position, tokens: out.length / width, width, half, values });
  } catch (error) {
    const { code, message: reason } = error instanceof Refusal ? error : { code: Code.FAILED, message: String(error) };
    message = encode({ kind: Kind.ERROR, request, session, code, reason });
  }
  tell({ type: "answer", turn, message, ms: performance.now() - began, tokens, position }, [message.buffer]);
}
