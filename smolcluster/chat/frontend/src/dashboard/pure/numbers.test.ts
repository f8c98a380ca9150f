import { expect, it } from "vitest";
import { bytes, clock, mb, mbps, moment, ms, short, whole } from "./numbers";

it("says figures with as many digits as say something", () => {
  expect([0, 0.05, 7.123, 999, 1000, 20_400, 1_230_000, 2.5e9, -1500].map(short)).toEqual([
    "0", "0.05", "7.12", "999", "1k", "20.4k", "1.23M", "2.5G", "-1.5k",
  ]);
  expect([0, 900, 33.1e6, 1.5e12, 9e15].map(bytes)).toEqual(["0 B", "900 B", "33.1 MB", "1.5 TB", "9000 TB"]);
  expect([0.35, 240, 999, 1240].map(ms)).toEqual(["0.35 ms", "240 ms", "999 ms", "1.24 s"]);
  expect([941, 2140].map(mbps)).toEqual(["941 Mbit/s", "2.14 Gbit/s"]);
  expect([612, 8192].map(mb)).toEqual(["612 MB", "8.19 GB"]);
  expect(whole(12345.4)).toBe("12,345");
});

it("says times", () => {
  expect([0, 65, 7389, 59.6].map(clock)).toEqual(["0:00", "1:05", "2:03:09", "1:00"]);
  expect([null, undefined, Infinity, NaN, -3].map(clock)).toEqual(["-:--", "-:--", "-:--", "-:--", "0:00"]);
  const noon = new Date(2026, 10, 29, 12, 0, 5);
  expect(moment(noon.getTime() / 1000, noon)).toBe("12:00:05");
  expect(moment(noon.getTime() / 1000 - 86_400, noon)).toBe("11-28 12:00:05");
});
