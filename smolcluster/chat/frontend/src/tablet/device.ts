/** What this device is called, as far as its browser says. */

/** "iPad", "Android", "Linux": for the cluster's messages and the page. */
export function system({ userAgent, maxTouchPoints }: Pick<Navigator, "userAgent" | "maxTouchPoints"> = navigator): string {
  if (/iPhone/.test(userAgent)) return "iPhone";
  // An iPad says that it is a Mac; no Mac has a screen that is touched.
  if (/iPad/.test(userAgent) || (/Macintosh/.test(userAgent) && maxTouchPoints > 1)) return "iPad";
  if (/Android/.test(userAgent)) return /Mobile/.test(userAgent) ? "Android phone" : "Android tablet";
  return ["Windows", "Macintosh", "CrOS", "Linux"].find((name) => userAgent.includes(name))?.replace("Macintosh", "Mac") ?? "browser";
}

export function browser({ userAgent }: Pick<Navigator, "userAgent"> = navigator): string {
  const found = [
    ["Edge", /Edg\//], ["Firefox", /Firefox\/|FxiOS\//], ["Samsung Internet", /SamsungBrowser\//],
    ["Chrome", /CriOS\/|Chrome\//], ["Safari", /Safari\//],
  ] as const; // prettier-ignore
  return found.find(([, sign]) => sign.test(userAgent))?.[0] ?? "a browser";
}
