import type { WebTransportListen } from "./webtransport.ts";
export function denoUnavailable(): string | null { return "TODO"; }
export const listenDeno: WebTransportListen = async () => { throw new Error("TODO"); };
