/** What is looked at, and how: kept in the address after #, so that a reload and a link come to the same. */

export const TABS = ["overview", "charts", "events", "logs", "settings"] as const;
export type Tab = (typeof TABS)[number];
export const LEVELS = ["", "INFO", "WARNING", "ERROR"] as const;
export type Level = (typeof LEVELS)[number];

export interface View {
  tab: Tab;
  /** Of logs and events: one node only; "" all. */
  node: string;
  /** Of logs: this level and above; "" all. */
  level: Level;
  find: string;
  follow: boolean;
  /** Weight of what came before, 0 to 0.99. */
  smooth: number;
  log: boolean;
  /** Steps that charts show; null all. */
  zoom: [number, number] | null;
  /** Lines that are not shown. */
  hidden: string[];
}

export const FIRST: View = {
  tab: "overview",
  node: "",
  level: "",
  find: "",
  follow: true,
  smooth: 0,
  log: false,
  zoom: null,
  hidden: [],
};

/** What an address says; what it says wrongly is left out. */
export function readView(hash: string): View {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  const smooth = Number(said.get("smooth") ?? FIRST.smooth);
  const zoom = /^(-?[\d.]+)-(-?[\d.]+)$/.exec(said.get("steps") ?? "");
  const [low, high] = zoom === null ? [NaN, NaN] : [Number(zoom[1]), Number(zoom[2])];
  return {
    tab: TABS.find((tab) => tab === said.get("view")) ?? FIRST.tab,
    node: said.get("node") ?? "",
    level: LEVELS.find((level) => level === said.get("level")) ?? "",
    find: said.get("find") ?? "",
    follow: said.get("follow") !== "no",
    smooth: smooth >= 0 && smooth < 1 ? smooth : FIRST.smooth,
    log: said.get("scale") === "log",
    zoom: low < high ? [low, high] : null,
    hidden: (said.get("hidden") ?? "").split(",").filter((name) => name !== ""),
  };
}

/** The address's part for it: only what differs from the first view. */
export function viewHash(view: View): string {
  const said = new URLSearchParams();
  if (view.tab !== FIRST.tab) said.set("view", view.tab);
  if (view.node !== "") said.set("node", view.node);
  if (view.level !== "") said.set("level", view.level);
  if (view.find !== "") said.set("find", view.find);
  if (!view.follow) said.set("follow", "no");
  if (view.smooth > 0) said.set("smooth", String(view.smooth));
  if (view.log) said.set("scale", "log");
  if (view.zoom !== null) said.set("steps", view.zoom.map((step) => String(Number(step.toFixed(1)))).join("-"));
  if (view.hidden.length > 0) said.set("hidden", view.hidden.join(","));
  return `#${said}`;
}
