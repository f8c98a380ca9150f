/** Figures as people read them. */

/** With three digits and a sign of size: 1.23M, 20k, 0.05. */
export function short(value: number): string {
  for (const [size, sign] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]] as const)
    if (Math.abs(value) >= size) return digits(value / size) + sign;
  return digits(value);
}

const digits = (value: number) => String(Number(value.toPrecision(3)));

export const bytes = (value: number): string => spaced(value, ["B", "kB", "MB", "GB", "TB"], 1000);

/** 0.35 ms, 240 ms, 1.24 s. */
export const ms = (value: number): string => (value >= 1000 ? `${digits(value / 1000)} s` : `${digits(value)} ms`);

/** What a link carries. */
export const mbps = (value: number): string =>
  value >= 1000 ? `${digits(value / 1000)} Gbit/s` : `${digits(value)} Mbit/s`;

export const mb = (value: number): string => (value >= 1000 ? `${digits(value / 1000)} GB` : `${digits(value)} MB`);

/** 1:05, 2:03:09; what is not known is no time. */
export function clock(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "-:--";
  const all = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** 12,345. */
export const whole = (value: number): string => Math.round(value).toLocaleString("en");

/** The time of day on this device; the day too where it is not today's. */
export function moment(seconds: number, now = new Date()): string {
  const when = new Date(seconds * 1000);
  const time = [when.getHours(), when.getMinutes(), when.getSeconds()].map(two).join(":");
  return when.toDateString() === now.toDateString() ? time : `${two(when.getMonth() + 1)}-${two(when.getDate())} ${time}`;
}

const two = (value: number) => String(value).padStart(2, "0");

function spaced(value: number, units: string[], base: number): string {
  let unit = 0;
  while (Math.abs(value) >= base && unit < units.length - 1) {
    value /= base;
    unit += 1;
  }
  return `${digits(value)} ${units[unit]}`;
}
