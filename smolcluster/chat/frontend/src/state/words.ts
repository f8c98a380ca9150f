/** A figure with as many digits as say something: 0.25, 7.1, 48, 1210. */
export const brief = (value: number): string => (value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(2))));
