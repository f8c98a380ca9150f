import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { DIALLER, hex, LISTENER, proof, same, unhex } from "./greeting";
import { narrowed, widened } from "./half";
import { decode, encode, Kind, nameOf, ProtocolError, type Message } from "./messages";

// The same files that hold the Python side to its bytes.
const GOLDEN = join(__dirname, "../../../../../tests/tablet/golden");
const golden = (name: string): Uint8Array<ArrayBuffer> => new Uint8Array(readFileSync(join(GOLDEN, `${name}.bin`)));
const names = readdirSync(GOLDEN).map((file) => file.replace(".bin", ""));
const KEY = "eb398e07bab06ad3180bbad39a14de26a58ae08e1fc6b6ae52851dc789081b7c";
const SESSION = 0x0102030405060708n;
const values = (numbers: Uint16Array | Float32Array) => new Uint8Array(numbers.buffer);
const HALVES = new Uint16Array([0x0000, 0x3c00, 0xc000, 0x3800, 0x7bff, 0xb400]);
const FLOATS = new Float32Array([0, 1, -2, 0.5, 65504, -0.25]);

const MESSAGES: Record<string, Message> = {
  hello: { kind: Kind.HELLO, role: "cluster", run: "20261129-1200-inference", name: "mini1", nonce: "01".repeat(32) },
  challenge: { kind: Kind.CHALLENGE, role: "tablet", run: "20261129-1200-inference", name: "Mina’s iPad", nonce: "ab".repeat(32) },
  assign: {
    kind: Kind.ASSIGN, model: "gpt2", layers: "4:8", width: 768, out_width: 768, last: false, context: 1024, dtype: "fp16",
    packages: { onnx: "2e".repeat(32), coreml: "1f".repeat(32) },
  }, // prettier-ignore
  ready: { kind: Kind.READY, device: "iPad (A16)", format: "coreml", hash: "1f".repeat(32), layers: "4:8" },
  open: { kind: Kind.OPEN, session: SESSION, capacity: 1024 },
  forward_fp16: { kind: Kind.FORWARD, request: 7, session: SESSION, position: 42, tokens: 2, width: 3, half: true, values: values(HALVES) },
  forward_fp32: { kind: Kind.FORWARD, request: 8, session: 1n, position: 0, tokens: 2, width: 3, half: false, values: values(FLOATS) },
  result_fp16: { kind: Kind.RESULT, request: 7, session: SESSION, position: 42, tokens: 2, width: 3, half: true, values: values(HALVES) },
  result_fp32: { kind: Kind.RESULT, request: 8, session: 1n, position: 0, tokens: 2, width: 3, half: false, values: values(FLOATS) },
  forget: { kind: Kind.FORGET, session: SESSION },
  ping: { kind: Kind.PING, number: 0xdeadbeef },
  pong: { kind: Kind.PONG, number: 0xdeadbeef },
  error_session: { kind: Kind.ERROR, code: 16, reason: "it is not open here", request: 7, session: SESSION },
  error_connection: { kind: Kind.ERROR, code: 3, reason: "this tablet has layers 0:4", request: 0, session: 0n },
};

describe("the bytes of the protocol", () => {
  it("are the golden ones", () => {
    for (const [name, message] of Object.entries(MESSAGES)) expect(encode(message), name).toEqual(golden(name));
  });

  it("are read, each file of them, and written again", () => {
    expect(names.length).toBeGreaterThan(17);
    for (const name of names) {
      const message = decode(golden(name).buffer);
      expect(name.startsWith(nameOf(message).toLowerCase()), name).toBe(true);
      expect(encode(message), name).toEqual(golden(name));
    }
  });

  it("are none when they are cut short, or too long", () => {
    for (const name of names.filter((one) => one !== "piece")) {
      const bytes = golden(name);
      for (let end = 0; end < bytes.length; end++) expect(() => decode(bytes.slice(0, end).buffer), `${name} ${end}`).toThrow(ProtocolError);
      expect(() => decode(new Uint8Array([...bytes, 0]).buffer), name).toThrow(ProtocolError);
    }
  });

  it("of another version are told apart", () => {
    expect(() => decode(new Uint8Array([0x53, 0x54, 9, 32, 0, 0, 0, 0]).buffer)).toThrow("version 9");
  });

  it("that are garbage are refused", () => {
    for (const junk of ["GET / HTTP/1.1\r\n", "ST\u0001\u0063", "ST\u0001\u0005{}", "ST\u0001\u0005[]", "ST\u0001\u0002{\"name\":1}"])
      expect(() => decode(new TextEncoder().encode(junk).buffer as ArrayBuffer), junk).toThrow(ProtocolError);
  });
});

describe("the proof", () => {
  it("is the golden one, of both ends", () => {
    // The tablet key of "the secret of the run", as in documentation/tablet.md.
    const key = unhex(KEY)!;
    const [hello, challenge] = [golden("hello"), golden("challenge")];
    expect(hex(proof(key, DIALLER, hello, challenge))).toBe(hex(golden("proof").slice(4)));
    expect(hex(proof(key, LISTENER, hello, challenge))).toBe(hex(golden("welcome").slice(4)));
    expect(same(proof(key, DIALLER, hello, challenge), golden("proof").slice(4))).toBe(true);
  });

  it("of another key is another", () => {
    const key = unhex(KEY.replace(/^./, (digit) => (digit === "0" ? "1" : "0")))!;
    expect(same(proof(key, DIALLER, golden("hello"), golden("challenge")), golden("proof").slice(4))).toBe(false);
  });

  it("needs a key of 32 bytes", () => {
    for (const none of ["", "ab", "x".repeat(64), KEY + "00"]) expect(unhex(none)).toBe(null);
  });
});

describe("half precision", () => {
  it("is widened and narrowed without a loss, for every number", () => {
    const all = Uint16Array.from({ length: 1 << 16 }, (_, half) => half).filter((half) => (half & 0x7fff) <= 0x7c00);
    expect(narrowed(widened(all))).toEqual(all);
    expect(widened(HALVES)).toEqual(FLOATS);
  });

  it("is rounded to the nearest, ties to even", () => {
    // 1 + 2^-11 lies between 1 and the next; 1 + 3 * 2^-11 between that and the one after it.
    const numbers = new Float32Array([1 + 2 ** -11, 1 + 3 * 2 ** -11, 1 + 2 ** -11 + 2 ** -20, 65519, 65520, -1e9, 2 ** -25, 3 * 2 ** -25, 2 ** -26, NaN]);
    expect(Array.from(narrowed(numbers))).toEqual([0x3c00, 0x3c02, 0x3c01, 0x7bff, 0x7c00, 0xfc00, 0, 2, 0, 0x7e00]);
  });
});
