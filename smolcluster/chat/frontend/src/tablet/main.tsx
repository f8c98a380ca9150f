import { createRoot } from "react-dom/client";
import { browserStorage } from "../state/storage";
import { loadTheme, setTheme } from "../state/theme";
import { App } from "./App";
import { WakeLock } from "./awake";
import { browser, system } from "./device";
import { unhex } from "./greeting";
import { keepKey, sessionStorageOf, takeKey } from "./key";
import type { Socket } from "./link";
import { Tablet } from "./tablet";
import "../styles/colours.css";
import "./tablet.css";

const storage = browserStorage();
setTheme(storage, loadTheme(storage));

const kept = sessionStorageOf();
const key = unhex(takeKey(location, history, kept));
const run = document.querySelector<HTMLMetaElement>("meta[name=smolcluster-run]")?.content ?? "";
const me = { run, name: system(), key: key ?? new Uint8Array(32) };
const dial = () => new WebSocket(`${location.origin.replace("http", "ws")}/tablet/socket`) as Socket;
const tablet = new Tablet({ me, device: `${browser()} on ${system()}`, dial });
const awake = new WakeLock((state) => tablet.show({ awake: state }));

function begin(): void {
  tablet.show({ phase: "connecting" });
  void awake.keep(true);
  void tablet.run();
}

/** A key that a person has put in. */
function enter(text: string): void {
  const first = !begun;
  keepKey(kept, text);
  me.key = unhex(text)!;
  begun = true;
  if (first) begin();
  else tablet.again();
}

let begun = key !== null;
if (begun) begin();
else tablet.show({ phase: "no-key" });

// Whatever may have changed while the page was asleep, or away.
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && tablet.wake());
window.addEventListener("online", () => tablet.wake());
window.addEventListener("pageshow", (event) => event.persisted && tablet.again());
window.addEventListener("pagehide", () => tablet.leave());
// Another address of this cluster in the same tab, as a QR code that was scanned anew.
window.addEventListener("hashchange", () => {
  const shown = takeKey(location, history, kept);
  if (unhex(shown) !== null) enter(shown);
});

createRoot(document.getElementById("page")!).render(<App tablet={tablet} enter={enter} />);
