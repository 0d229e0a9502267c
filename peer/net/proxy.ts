/**
 * TCP to the relay through an HTTP proxy (CONNECT, RFC 9110 9.3.6), where the environment names one.
 *
 * The proxy sees the relay's name and port and nothing else: TLS to the relay runs inside, and the relay's
 * certificate is checked there as ever.
 *
 * @module
 */
import { BlockList, connect as connectTcp, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { proxyEnvironment } from "../config.ts";
import type { RelayAddress } from "./address.ts";
import { LinkError } from "./errors.ts";
import { directTcp, type ConnectTcp } from "./tls.ts";

const ANSWER_BYTES_MAX = 16 * 1024;
const END_OF_HEADERS = "\r\n\r\n";

/** What `HTTPS_PROXY` names. */
export interface Proxy {
  readonly isTls: boolean;
  readonly host: string;
  readonly port: number;
  /** For messages: without the credentials. */
  readonly text: string;
  /** A header's value; a secret. */
  readonly authorization: string | undefined;
}

/** As the environment says: directly, or through its proxy. */
export const routedTcp: ConnectTcp = (address, open) => {
  const proxy = proxyFor(address, proxyEnvironment());
  return proxy === undefined ? directTcp(address, open) : throughProxy(proxy)(address, open);
};

/**
 * The proxy for this relay, if one is set and `NO_PROXY` does not except it.
 *
 * @throws LinkError `PROXY_INVALID`
 */
export function proxyFor(
  { host, port }: RelayAddress,
  { proxy, exceptions }: { readonly proxy: string | undefined; readonly exceptions: string },
): Proxy | undefined {
  if (proxy === undefined || proxy === "" || isExcepted(host, port, exceptions)) return undefined;
  return parseProxy(proxy);
}

/** `http://[USER:PASSWORD@]HOST[:PORT]`, or https; without a scheme it is http. */
function parseProxy(text: string): Proxy {
  let url: URL;
  try {
    url = new URL(text.includes("://") ? text : `http://${text}`);
  } catch {
    // Not shown: it may hold a password.
    throw new LinkError("PROXY_INVALID", "HTTPS_PROXY is not a URL: use http://HOST:PORT");
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new LinkError(
      "PROXY_INVALID",
      `HTTPS_PROXY names a ${url.protocol} proxy: only http: and https: are known`,
    );
  }
  const isTls = url.protocol === "https:";
  const port = url.port === "" ? (isTls ? 443 : 80) : Number(url.port);
  const user = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
  return {
    isTls,
    host: url.hostname.replaceAll(/^\[|\]$/g, ""),
    port,
    text: `${url.protocol}//${url.hostname}:${port}`,
    authorization: user === ":" ? undefined : `Basic ${Buffer.from(user).toString("base64")}`,
  };
}

/** Names with all below them, addresses, networks (`10.0.0.0/8`), each with a port if that matters; `*` is all. */
function isExcepted(host: string, port: number, exceptions: string): boolean {
  const name = host.toLowerCase();
  return exceptions
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== "")
    .some((entry) => {
      if (entry === "*") return true;
      if (entry.includes("/")) return isInNetwork(name, entry);
      const [, bare = "", portText] =
        /^\[?([^\]]*?)\]?(?::(\d+))?$/.exec(isIP(entry) === 6 ? `[${entry}]` : entry) ?? [];
      if (portText !== undefined && Number(portText) !== port) return false;
      const domain = bare.replace(/^\*?\./, "");
      return (
        domain !== "" && (name === domain || (isIP(name) === 0 && name.endsWith(`.${domain}`)))
      );
    });
}

function isInNetwork(host: string, network: string): boolean {
  const [base = "", bits = ""] = network.split("/");
  const family = isIP(base);
  const length = Number(bits);
  if (
    family === 0 ||
    isIP(host) !== family ||
    !(length >= 0 && length <= (family === 4 ? 32 : 128))
  )
    return false;
  const kind = family === 4 ? "ipv4" : "ipv6";
  const list = new BlockList();
  list.addSubnet(base, length, kind);
  return list.check(host, kind);
}

/** @throws LinkError `PROXY_UNREACHABLE`, `PROXY_REFUSED` */
export function throughProxy(proxy: Proxy): ConnectTcp {
  return async (address, open) => {
    const socket: Socket = proxy.isTls
      ? connectTls({
          host: proxy.host,
          port: proxy.port,
          ALPNProtocols: ["http/1.1"],
          ...(isIP(proxy.host) === 0 ? { servername: proxy.host } : {}),
        })
      : connectTcp({ host: proxy.host, port: proxy.port, autoSelectFamily: true });
    open.push(socket);
    await connected(socket, proxy);
    const authorization =
      proxy.authorization === undefined ? "" : `Proxy-Authorization: ${proxy.authorization}\r\n`;
    const target = address.text;
    socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${authorization}\r\n`);
    const status = await answeredStatus(socket, proxy);
    if (status >= 200 && status < 300) return socket;
    throw new LinkError(
      "PROXY_REFUSED",
      `the proxy ${proxy.text} answers ${status} for ${target}: ${cureFor(status, proxy)}`,
    );
  };
}

function connected(socket: Socket, proxy: Proxy): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (why: string): void =>
      reject(
        new LinkError(
          "PROXY_UNREACHABLE",
          `no proxy answers at ${proxy.text} (${why}): correct HTTPS_PROXY, or unset it, or name the relay in NO_PROXY`,
        ),
      );
    socket.once(proxy.isTls ? "secureConnect" : "connect", resolve);
    socket.on("error", (error) => fail(error.message.split("\n")[0] ?? ""));
    socket.once("close", () => fail("it hung up"));
  });
}

/** Of the answer to CONNECT, whose headers are taken off the socket and nothing more. */
function answeredStatus(socket: Socket, proxy: Proxy): Promise<number> {
  return new Promise((resolve, reject) => {
    let text = "";
    const refuse = (why: string): void => {
      stop();
      reject(
        new LinkError(
          "PROXY_REFUSED",
          `the proxy ${proxy.text} ${why}: is it an HTTP proxy that allows CONNECT to this port?`,
        ),
      );
    };
    const onClose = (): void => refuse("hung up");
    const onReadable = (): void => {
      const piece: unknown = socket.read();
      if (!(piece instanceof Uint8Array)) return;
      text += Buffer.from(piece).toString("latin1");
      const end = text.indexOf(END_OF_HEADERS);
      if (end < 0) {
        if (text.length > ANSWER_BYTES_MAX) refuse("does not come to an end of its answer");
        return;
      }
      const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(text)?.[1] ?? Number.NaN);
      if (Number.isNaN(status)) return refuse("does not speak HTTP");
      stop();
      // The relay says nothing before it is spoken to, but a page may follow a refusal.
      const rest = text.slice(end + END_OF_HEADERS.length);
      if (rest !== "" && status < 300) socket.unshift(Buffer.from(rest, "latin1"));
      resolve(status);
    };
    const stop = (): void => {
      socket.off("readable", onReadable);
      socket.off("close", onClose);
    };
    socket.on("readable", onReadable);
    socket.once("close", onClose);
  });
}

function cureFor(status: number, proxy: Proxy): string {
  switch (status) {
    case 407:
      return proxy.authorization === undefined
        ? "it wants a user and a password, as in HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
        : "user or password in HTTPS_PROXY are wrong, or it wants another scheme than Basic";
    case 403:
    case 405:
      return "its rules do not allow it; let them, or give the relay port 443";
    case 502:
    case 503:
    case 504:
      return "it does not reach the relay; check the relay's address as the proxy's host sees it";
    default:
      return "see its log, or name the relay in NO_PROXY";
  }
}
