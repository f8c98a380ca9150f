/** The worker, from the page's side. A new stage gets a new worker: that gives all memory of the former one back. */
import type { Assign, Hidden } from "./messages";
import type { Order, Told } from "./work";

export type Answer = Extract<Told, { type: "answer" }>;

const MOST_THREADS = 4;

/** Half of the cores: on a tablet the other half are slow ones, for which the fast ones would wait. */
const threads = (): number => (crossOriginIsolated ? Math.min(MOST_THREADS, Math.ceil((navigator.hardwareConcurrency || 2) / 2)) : 1);

export class Compute {
  /** The hash of the stage that is loaded. */
  hash = "";
  how = "";
  gpuError = "";
  answered: (answer: Answer) => void = () => undefined;
  held: (sessions: number, bytes: number) => void = () => undefined;
  private worker: Worker | null = null;
  private settled: { resolve: () => void; reject: (error: Error) => void } | null = null;

  /** Resolves when it computes. `file` is given away. Rejects with what the runtime said. */
  load(file: Uint8Array<ArrayBuffer>, sha256: string, hash: string, assign: Assign): Promise<void> {
    this.end("another stage is loaded");
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    this.worker = worker;
    worker.onmessage = ({ data }: MessageEvent<Told>) => this.hear(data, hash);
    worker.onerror = (event) => this.end(event.message || "the worker could not be started");
    return new Promise((resolve, reject) => {
      this.settled = { resolve, reject };
      this.order({ type: "load", file, sha256, assign, threads: threads() }, [file.buffer]);
    });
  }

  open(turn: number, session: bigint, capacity: number): void {
    this.order({ type: "open", turn, session, capacity });
  }

  forward(turn: number, hidden: Hidden): void {
    this.order({ type: "forward", turn, hidden }, [hidden.values.buffer as ArrayBuffer]);
  }

  forget(turn: number, session: bigint): void {
    this.order({ type: "forget", turn, session });
  }

  /** No session is left. */
  clear(): void {
    this.order({ type: "clear" });
  }

  private order(order: Order, moved: Transferable[] = []): void {
    this.worker?.postMessage(order, moved);
  }

  private hear(told: Told, hash: string): void {
    if (told.type === "answer") this.answered(told);
    else if (told.type === "held") this.held(told.sessions, told.bytes);
    else if (told.type === "unloadable") this.end(told.reason);
    else {
      [this.hash, this.how, this.gpuError] = [hash, told.how, told.gpu_error];
      this.settled?.resolve();
      this.settled = null;
    }
  }

  private end(reason: string): void {
    this.worker?.terminate();
    this.worker = null;
    this.hash = "";
    this.settled?.reject(new Error(reason));
    this.settled = null;
  }
}
