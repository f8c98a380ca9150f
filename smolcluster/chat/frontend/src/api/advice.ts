/** What a person can do about an error, by its code or its status. */
import type { ApiFailure } from "./http";

const BY_CODE: Record<string, string> = {
  unreachable:
    "Is this device in the same network, and does inference.yml still run? The page tries again by itself.",
  connection_lost: "The answer could not be taken up again. Retry asks for it anew.",
  answer_not_found: "Retry asks for it anew.",
  events_gone: "Retry asks for it anew.",
  left: "Retry asks for it anew.",
  context_length_exceeded: "Start a new chat, or edit an earlier message: what comes after it is left out.",
  queue_full: "Others are being answered. Retry in a few seconds.",
  not_ready: "The strip of stages says which one is missing. Start it again, then press Reconnect.",
  stage_lost: "A computer of the cluster was lost in mid-answer. Retry when all stages are alive again.",
  session: "A stage has forgotten this answer. Retry asks for it anew.",
  deadline: "It took longer than the server allows. Ask for fewer tokens.",
  closed: "The server is being stopped. Start inference.yml again, then retry.",
  invalid_api_key: "Enter the key, or open the link that inference.yml printed.",
  unknown_host: "Open the page by the address that inference.yml printed.",
  cross_origin: "Open the page by the address that inference.yml printed.",
  body_too_large: "Start a new chat, or shorten the message.",
};

export function advice(failure: Pick<ApiFailure, "status" | "code">): string {
  const known = failure.code === null ? undefined : BY_CODE[failure.code];
  if (known !== undefined) return known;
  if (failure.status === 429) return "Others are being answered. Retry in a few seconds.";
  if (failure.status === 503) return "The model cannot be served now. The strip of stages says why.";
  if (failure.status >= 500) return "The log of the run has more (rank of the API, in the run's folder).";
  return "Change the message or the settings, then send again.";
}
