/** Layers as an ONNX file (smolcluster/tablet/onnxfile.py), computed by onnxruntime-web: with WebGPU where there is one,
 * else by WebAssembly, in threads where the page may have them. Runs in a worker.
 */
import loader from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url";
import wasm from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import * as ort from "onnxruntime-web/webgpu";
import { widened } from "./half";
import type { Hidden } from "./messages";
import type { Layers } from "./sessions";

// One runtime for both: it computes by WebAssembly too.
ort.env.wasm.wasmPaths = { mjs: loader, wasm };
// Warnings are of no use to whoever holds the tablet; errors are thrown besides.
ort.env.logLevel = "error";

/** Keys and values of the tokens so far. */
export interface Past {
  keys: ort.Tensor;
  values: ort.Tensor;
}

/** How it computes, in words: "WebGPU", "WASM, 4 threads". `gpu_error`: why there is no WebGPU although it was tried. */
export interface Engine {
  layers: ONNXLayers;
  how: string;
  gpu_error: string;
}

/** The file at work. Throws what the runtime says when it cannot be. */
export async function load(file: Uint8Array, width: number, threads: number): Promise<Engine> {
  ort.env.wasm.numThreads = threads;
  let gpu_error = "";
  if (await hasGPU()) {
    try {
      const layers = await ONNXLayers.make(file, width, true);
      return { layers, how: "WebGPU", gpu_error };
    } catch (error) {
      gpu_error = error instanceof Error ? error.message : String(error);
    }
  }
  const layers = await ONNXLayers.make(file, width, false);
  return { layers, how: `WASM, ${threads === 1 ? "1 thread" : `${threads} threads`}`, gpu_error };
}

async function hasGPU(): Promise<boolean> {
  const gpu = (navigator as { gpu?: { requestAdapter(): Promise<unknown> } }).gpu;
  try {
    return gpu !== undefined && (await gpu.requestAdapter()) !== null;
  } catch {
    return false;
  }
}

export class ONNXLayers implements Layers<Past> {
  private constructor(private readonly session: ort.InferenceSession, private readonly cache: readonly number[]) {}

  /** Computes two tokens at once: what cannot be computed here, or only by another backend, shows before READY. */
  static async make(file: Uint8Array, width: number, gpu: boolean): Promise<ONNXLayers> {
    const session = await ort.InferenceSession.create(file, {
      executionProviders: [gpu ? "webgpu" : "wasm"],
      graphOptimizationLevel: "all",
      logSeverityLevel: 3,
      // On the GPU the caches stay there.
      ...(gpu ? { preferredOutputLocation: { keys: "gpu-buffer", values: "gpu-buffer" } as const } : {}),
    });
    const layers = new ONNXLayers(session, shapeOf(session));
    try {
      const token = { request: 0, session: 0n, tokens: 1, width, half: false, values: new Uint8Array(4 * width) };
      const first = await layers.run({ ...token, position: 0 }, null);
      const second = await layers.run({ ...token, position: 1 }, first.past);
      layers.release(second.past);
    } catch (error) {
      await session.release();
      throw error;
    }
    return layers;
  }

  async run(hidden: Hidden, past: Past | null): Promise<{ out: Float32Array; width: number; past: Past }> {
    const x = new ort.Tensor("float32", numbers(hidden), [1, hidden.tokens, hidden.width]);
    const { keys, values } = past ?? { keys: this.none(), values: this.none() };
    try {
      const made = await this.session.run({ hidden: x, past_keys: keys, past_values: values });
      const out = made["out"]!;
      return { out: (await out.getData()) as Float32Array, width: out.dims.at(-1)!, past: { keys: made["keys"]!, values: made["values"]! } };
    } finally {
      keys.dispose();
      values.dispose();
    }
  }

  bytesOf({ keys, values }: Past): number {
    return 4 * (keys.size + values.size);
  }

  release({ keys, values }: Past): void {
    keys.dispose();
    values.dispose();
  }

  /** A session begins with no positions. */
  private none(): ort.Tensor {
    const [layers, heads, width] = this.cache as [number, number, number];
    return new ort.Tensor("float32", new Float32Array(0), [layers, heads, 0, width]);
  }
}

/** Layers, heads and width of a head, of the cache that goes in. */
function shapeOf(session: ort.InferenceSession): number[] {
  const input = session.inputMetadata.find(({ name }) => name === "past_keys");
  const shape = input?.isTensor ? input.shape.filter((size) => typeof size === "number") : [];
  if (shape.length !== 3) throw new Error("the file is no stage of smolcluster: its input past_keys has another shape");
  return shape;
}

function numbers({ values, half }: Hidden): Float32Array {
  // A copy: it may lie anywhere in the message, and the runtime wants multiples of four.
  const own = values.slice().buffer;
  return half ? widened(new Uint16Array(own)) : new Float32Array(own);
}
