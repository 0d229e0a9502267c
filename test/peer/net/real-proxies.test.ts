/** Links through programs that others run in front of a relay, or that stand between it and the peers. */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect, createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import type { Link } from "../../../peer/net/link.ts";
import { dialWebSocket } from "../../../peer/net/websocket-link.ts";
import type { ByteStream } from "../../../relay/protocol/stream.ts";
import { testListener, type TestListener } from "../../compliance/link-support.ts";
import { requireTool, skipUnless, type ToolName } from "../../support/requires.ts";

const MIB = 1024 * 1024;
const GREETING = Uint8Array.of(4, 2);

let relay: TestListener;
let folder: string;
let running: ChildProcess[] = [];

beforeAll(async () => {
  relay = await testListener({ webTransport: "off" });
  folder = await mkdtemp(path.join(tmpdir(), "memferry-proxies-"));
  const { certificatePem, privateKeyPem } = relay.certificate;
  await writeFile(path.join(folder, "cert.pem"), certificatePem);
  await writeFile(path.join(folder, "key.pem"), privateKeyPem, { mode: 0o600 });
  await writeFile(path.join(folder, "both.pem"), certificatePem + privateKeyPem, { mode: 0o600 });
});
beforeEach(() => {
  for (const name of ["https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"]) {
    vi.stubEnv(name, undefined);
  }
});
afterEach(async () => {
  vi.unstubAllEnvs();
  const ended = running.map((child) => new Promise((resolve) => void child.once("exit", resolve)));
  for (const child of running) child.kill("SIGTERM");
  await Promise.all(ended);
  running = [];
});
afterAll(async () => {
  await relay.close();
  await rm(folder, { recursive: true, force: true });
});

/** @param args With `FILE` for the configuration's file. */
async function run(name: ToolName, args: readonly string[], configuration: string): Promise<void> {
  const file = path.join(folder, `${name}.conf`);
  await writeFile(file, configuration);
  const command = requireTool(name).path;
  const child = spawn(
    command,
    args.map((arg) => (arg === "FILE" ? file : arg)),
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  let told = "";
  child.stderr.on("data", (piece: Buffer) => (told += piece.toString("utf8")));
  const ended = new Promise<never>((_resolve, reject) => {
    child.once("exit", (code) => reject(new Error(`${name} ended with ${code}: ${told}`)));
  });
  ended.catch(() => {});
  running.push(child);
  const port = Number(/PORT=(\d+)/.exec(configuration)?.[1]);
  await Promise.race([listening(port), ended]);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function listening(port: number): Promise<void> {
  for (;;) {
    const isThere = await new Promise<boolean>((resolve) => {
      const socket = connect({ host: "127.0.0.1", port });
      socket.once("connect", () => resolve(true));
      socket.once("error", () => resolve(false));
      socket.once("connect", () => socket.destroy());
    });
    if (isThere) return;
    await sleep(50);
  }
}

async function take(stream: ByteStream, count: number): Promise<Uint8Array> {
  const whole = new Uint8Array(count);
  for (let at = 0; at < count;) {
    const piece = await stream.read();
    if (piece === null) throw new Error("the stream ended early");
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** A greeting, early bytes and bulk, both ways, on several streams. */
async function carries(url: string): Promise<void> {
  const link: Link = await dialWebSocket({
    url,
    certificateHashes: [relay.certificate.hash],
    greeting: () => GREETING,
  });
  expect(link.greeted).toBe(true);
  const first = await link.openStream();
  const greeted = await relay.arrivals.next();
  expect(await take(greeted.stream, GREETING.length)).toEqual(GREETING);
  await greeted.stream.write(Uint8Array.of(9));
  expect(await take(first, 1)).toEqual(Uint8Array.of(9));
  for (let round = 0; round < 3; round++) {
    const near = await link.openStream();
    const sent = Uint8Array.from({ length: 4 * MIB }, (_, index) => (index * 31 + round) & 255);
    await near.write(Uint8Array.of(round));
    const writing = near.write(sent.slice());
    const { stream: far } = await relay.arrivals.next();
    expect(await take(far, 1)).toEqual(Uint8Array.of(round));
    const [arrived] = await Promise.all([take(far, sent.length), writing]);
    expect(Buffer.compare(arrived, sent)).toBe(0);
    const [back] = await Promise.all([take(near, sent.length), far.write(arrived)]);
    expect(Buffer.compare(back, sent)).toBe(0);
    near.abort("OK", "done");
  }
  await link.close("OK", "done");
}

test("nginx in front of a relay, as docs/transports.md has it", async (ctx) => {
  skipUnless(ctx, requireTool("nginx"));
  const port = await freePort();
  const configuration = `# PORT=${port}
daemon off; pid ${folder}/nginx.pid; error_log stderr; worker_processes 1;
events { worker_connections 256; }
http {
  access_log off; client_body_temp_path ${folder}/body; proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/f; uwsgi_temp_path ${folder}/u; scgi_temp_path ${folder}/s;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  server {
    listen 127.0.0.1:${port} ssl;
    ssl_certificate ${folder}/cert.pem;
    ssl_certificate_key ${folder}/key.pem;
    location / {
      proxy_pass ${relay.url};
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_buffering off;
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
    }
  }
}
`;
  await run("nginx", ["-e", "stderr", "-c", "FILE"], configuration);
  await carries(`https://127.0.0.1:${port}`);
});

const haproxyStart = (port: number): string => `# PORT=${port}
global
  maxconn 256
defaults
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 60s
`;

test("HAProxy that passes TLS on to a relay", async (ctx) => {
  skipUnless(ctx, requireTool("haproxy"));
  const port = await freePort();
  const configuration = `${haproxyStart(port)}
frontend memferry
  mode tcp
  bind 127.0.0.1:${port}
  default_backend relay
backend relay
  mode tcp
  server relay ${new URL(relay.url).host}
`;
  await run("haproxy", ["-db", "-f", "FILE"], configuration);
  await carries(`https://127.0.0.1:${port}`);
});

test("HAProxy with a certificate of its own in front of a relay", async (ctx) => {
  skipUnless(ctx, requireTool("haproxy"));
  const port = await freePort();
  const configuration = `${haproxyStart(port)}
frontend memferry
  mode http
  bind 127.0.0.1:${port} ssl crt ${folder}/both.pem alpn http/1.1
  default_backend relay
backend relay
  mode http
  server relay ${new URL(relay.url).host} ssl verify none alpn http/1.1
`;
  await run("haproxy", ["-db", "-f", "FILE"], configuration);
  await carries(`https://127.0.0.1:${port}`);
});

test("tinyproxy between a peer and a relay, with a password", async (ctx) => {
  skipUnless(ctx, requireTool("tinyproxy"));
  const port = await freePort();
  const configuration = `# PORT=${port}
Port ${port}
Listen 127.0.0.1
Timeout 600
MaxClients 64
Allow 127.0.0.1
BasicAuth ferry secret
ConnectPort ${new URL(relay.url).port}
`;
  await run("tinyproxy", ["-d", "-c", "FILE"], configuration);
  vi.stubEnv("HTTPS_PROXY", `http://ferry:secret@127.0.0.1:${port}`);
  await carries(relay.url);
  vi.stubEnv("HTTPS_PROXY", `http://127.0.0.1:${port}`);
  await expect(carries(relay.url)).rejects.toMatchObject({ code: "PROXY_REFUSED" });
});
