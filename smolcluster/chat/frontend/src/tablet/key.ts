/** The tablet key, which comes in the address's fragment and is taken out of it at once. */
const NAME = "smolcluster.tablet.key";

/** The key in hex, "" where there is none. A reload finds it again; another tab, and a browser that was ended, do not. */
export function takeKey(place: Location, past: History, storage: Storage | null): string {
  const shown = new URLSearchParams(place.hash.slice(1)).get("key");
  if (shown !== null) {
    // Who looks at the screen, the list of pages visited or a link that is passed on must not find it.
    past.replaceState(null, "", place.pathname + place.search);
    keepKey(storage, shown);
    return shown;
  }
  try {
    return storage?.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}

/** For this tab's reloads. */
export function keepKey(storage: Storage | null, key: string): void {
  try {
    storage?.setItem(NAME, key);
  } catch {
    // It lasts as long as the page.
  }
}

/** sessionStorage, or null where the browser keeps nothing. */
export function sessionStorageOf(): Storage | null {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}
