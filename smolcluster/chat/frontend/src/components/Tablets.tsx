/** The tablets that are waited for: what to open or start on each, until it has come. */
import { useEffect, useState } from "react";
import { tablets as askTablets } from "../api/http";
import type { Stages, Tablet } from "../api/types";
import { coming, patience } from "../state/words";
import { CopyButton } from "./CopyButton";
import { Qr } from "./Qr";

/** Asked whenever the stages were, and only where there is one. */
export function Tablets({ stages }: { stages: Stages | null | undefined }) {
  const [tablets, setTablets] = useState<Tablet[]>([]);
  useEffect(() => {
    if (!stages?.stages.some((stage) => stage.tablet !== "")) return setTablets([]);
    let over = false;
    askTablets().then(
      (now) => over || setTablets(now),
      () => over || setTablets([]),
    );
    return () => void (over = true);
  }, [stages]);
  return tablets
    .filter((tablet) => tablet.url !== null)
    .map((tablet) => (
      <section key={tablet.node} aria-label={tablet.node}>
        <h3>{coming(tablet)}</h3>
        <p>{patience(tablet)}</p>
        {tablet.qr_svg === null ? null : <Qr svg={tablet.qr_svg} label={`QR code of the link for ${tablet.node}`} />}
        <p className="link">
          <a href={tablet.url!} rel="noreferrer" {...(tablet.app === "browser" ? { target: "_blank" } : {})}>
            {tablet.url}
          </a>{" "}
          <CopyButton text={tablet.url!} label="Copy link" />
        </p>
        <p className="quiet">
          {tablet.app === "native" ? "By its camera; the app takes the key from the link." : "By its camera, or open the link there."}{" "}
          Good for this run. Who has it can come in as {tablet.node}: show it to nobody else.
        </p>
      </section>
    ));
}
