/** Both ends prove that they know the tablet key, over both greetings word for word. crypto.subtle would need a secure
 * context, which http:// in a home network is not; hence HMAC in JavaScript.
 */
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";

export const DIALLER = "smolcluster tablet dialler";
export const LISTENER = "smolcluster tablet listener";

/** HMAC-SHA256 over the label and both greetings, each after its length in 8 bytes, little-endian. */
export function proof(key: Uint8Array, label: string, hello: Uint8Array, challenge: Uint8Array): Uint8Array {
  const digest = hmac.create(sha256, key).update(new TextEncoder().encode(label));
  for (const part of [hello, challenge]) {
    const length = new Uint8Array(8);
    new DataView(length.buffer).setBigUint64(0, BigInt(part.length), true);
    digest.update(length).update(part);
  }
  return digest.digest();
}

/** In a time that does not depend on where they differ. */
export function same(one: Uint8Array, other: Uint8Array): boolean {
  let different = one.length ^ other.length;
  for (let index = 0; index < one.length; index++) different |= one[index]! ^ (other[index] ?? 0);
  return different === 0;
}

export function nonce(): string {
  return hex(crypto.getRandomValues(new Uint8Array(32)));
}

export const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** The 32 bytes of a key in hex; null if it is none. */
export function unhex(text: string): Uint8Array | null {
  if (!/^[0-9a-f]{64}$/i.test(text)) return null;
  return Uint8Array.from(text.match(/../g)!, (pair) => Number.parseInt(pair, 16));
}
