/** fp16 as it travels, and back: to the nearest, ties to even, as numpy does it. */

/** A copy of half-precision numbers as single ones. */
export function widened(halves: Uint16Array): Float32Array {
  const bits = new Uint32Array(halves.length);
  for (let index = 0; index < halves.length; index++) {
    const half = halves[index]!;
    const sign = (half & 0x8000) << 16;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 0) {
      // Subnormal: fraction x 2^-24.
      const value = new Float32Array([fraction * 2 ** -24]);
      bits[index] = sign | new Uint32Array(value.buffer)[0]!;
    } else if (exponent === 31) bits[index] = sign | 0x7f800000 | (fraction << 13);
    else bits[index] = sign | ((exponent + 112) << 23) | (fraction << 13);
  }
  return new Float32Array(bits.buffer);
}

/** A copy of single-precision numbers as half ones; what is too large is infinite. */
export function narrowed(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  for (let index = 0; index < values.length; index++) {
    const whole = bits[index]!;
    const sign = (whole >>> 16) & 0x8000;
    const size = whole & 0x7fffffff;
    if (size > 0x7f800000) halves[index] = sign | 0x7e00;
    else if (size >= 0x477ff000) halves[index] = sign | 0x7c00;
    else if (size < 0x38800000) {
      // Subnormal, or zero: in steps of 2^-24.
      const steps = Math.abs(values[index]!) * 2 ** 24;
      const below = Math.floor(steps);
      const rest = steps - below;
      halves[index] = sign | (rest > 0.5 || (rest === 0.5 && (below & 1) === 1) ? below + 1 : below);
    } else {
      const shifted = size - 0x38000000;
      halves[index] = sign | ((shifted + 0xfff + ((shifted >>> 13) & 1)) >>> 13);
    }
  }
  return halves;
}
