/** Light, dark, or as the device has it. */
const KEY = "smolcluster.theme";

export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

export function loadTheme(storage: Storage): Theme {
  try {
    return THEMES.find((theme) => theme === storage.getItem(KEY)) ?? "system";
  } catch {
    return "system";
  }
}

export function setTheme(storage: Storage, theme: Theme): void {
  document.documentElement.dataset.theme = theme;
  try {
    storage.setItem(KEY, theme);
  } catch {
    // It lasts as long as the page.
  }
}
