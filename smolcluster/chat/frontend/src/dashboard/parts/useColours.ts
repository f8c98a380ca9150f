/** The page's colours as a canvas needs them: worked out, and anew when light turns to dark. */
import { useEffect, useState, type RefObject } from "react";

const LINES = [0, 1, 2, 3, 4, 5, 6, 7];
const NAMES = ["quiet", "line", "good", "warn", "bad"] as const;

export type Colours = Record<(typeof NAMES)[number], string> & { lines: string[] };

export function useColours(place: RefObject<HTMLElement | null>): Colours | null {
  const [colours, setColours] = useState<Colours | null>(null);
  useEffect(() => {
    const look = () => place.current && setColours(coloursAt(place.current));
    look();
    const system = matchMedia("(prefers-color-scheme: dark)");
    const chosen = new MutationObserver(look);
    system.addEventListener("change", look);
    chosen.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => {
      system.removeEventListener("change", look);
      chosen.disconnect();
    };
  }, [place]);
  return colours;
}

function coloursAt(place: HTMLElement): Colours {
  const probe = place.appendChild(document.createElement("span"));
  const worked = (name: string) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const found = Object.fromEntries(NAMES.map((name) => [name, worked(name)])) as Record<(typeof NAMES)[number], string>;
  const lines = LINES.map((number) => worked(`line${number}`));
  probe.remove();
  return { ...found, lines };
}
